"""Settings of a vertical model, and of how it learns from foundation models."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from exfm.artifact.bundle import ModelName
from exfm.config import Config
from exfm.models.config import ModelConfig
from exfm.training.config import TrainingConfig

Method = Literal["auto", "label", "kd", "ah", "sa", "ah+sa"]

_COMPARED = "set the run's `compare`, such as `compare: [label, auto]`"


class DistillationConfig(Config):
    """How a vertical model learns from pseudo-labels (docs/concepts.md)."""

    method: Method = "auto"
    """`label`: from labels only; `kd`: serving head; `ah`: auxiliary head; `sa`: serving head, by a student adapter;
    `ah+sa`: auxiliary heads, with and without adapter; `auto`: `kd`, calibrated, by the teacher's lead."""
    weight: Annotated[float, Field(ge=0, le=100)] = 3.0
    """Weight of the pseudo-labels' loss beside the labels' loss; 0 to 100. With `auto` it is the most. 0: none."""
    gradient_scale: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Factor on the gradient that an auxiliary head sends into the shared layers; 0 to 100. 0: it sends none."""
    pseudo_label_scale: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Factor on the pseudo-labels of the auxiliary head without adapter, up to a probability of 1; more than 0, at
    most 100."""


class VerticalConfig(Config):
    """A vertical model (VM) and how it is trained."""

    removed: ClassVar[Mapping[str, str]] = {
        "compare_alone": _COMPARED,
        "compare_label_only": _COMPARED,
        "teacher_weight": "set distillation.weight, and distillation.method where it was 0, to label",
    }

    name: ModelName
    """Name of the model and of its Kubernetes objects: lower-case letters, digits and dashes, 30 at most."""
    domains: tuple[str, ...] = ()
    """Values of the schema's `domain` column whose examples it learns from and serves; empty: all."""
    features: tuple[str, ...] = ()
    """Features of the schema that it reads; empty: all."""
    tasks: tuple[str, ...] = ()
    """Labels of the schema that it learns, in the order of its outputs; empty: all."""
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig(batch_size=128)
    distillation: DistillationConfig = DistillationConfig()
    teachers: tuple[str, ...] = ()
    """Foundation models whose pseudo-labels it learns from. Each of them must teach all its tasks. Empty: all
    foundation models of the run that teach them."""
