"""Settings of a vertical model."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from exfm.artifact.bundle import ModelName
from exfm.config import Config
from exfm.models.config import ModelConfig
from exfm.training.config import TrainingConfig


class VerticalConfig(Config):
    """A vertical model (VM) and how it is trained."""

    removed: ClassVar[Mapping[str, str]] = {"compare_alone": "set compare_label_only"}

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
    teacher_weight: Annotated[float, Field(ge=0, le=100)] = 3.0
    """Weight of the pseudo-labels' loss beside the labels' loss; 0 to 100. 0: it learns from labels only."""
    compare_label_only: bool = True
    """Whether a label-only model is trained too, without a teacher, for the report. It doubles the training time."""
