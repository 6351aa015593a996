"""Settings of a foundation model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field

from exfm.artifact.stores import resolve_path
from exfm.config import Config, like
from exfm.models.config import ModelConfig, NetworkConfig
from exfm.training.config import TrainingConfig


class FoundationTrainingConfig(TrainingConfig):
    """How a foundation model is trained, by one process or by several.

    The number of processes changes neither the model nor its line: a step of the optimizers has `batch_size` examples
    in all.
    """

    nodes: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Nodes of a Kubernetes cluster; 1 to 1,000. More than 1: only on a cluster with Kubeflow Trainer."""
    processes_per_node: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes on a node, which have the embedding tables in parts; 1 to 64."""
    gpu: bool = False
    """Whether each process trains on a GPU of its own; else on CPUs."""

    @property
    def num_processes(self) -> int:
        """Return the processes on all nodes."""
        return self.nodes * self.processes_per_node

    @property
    def alone(self) -> TrainingConfig:
        """Return what makes the model what it is, whichever processes train it."""
        return TrainingConfig(**{name: getattr(self, name) for name in TrainingConfig.model_fields})


class FoundationConfig(Config):
    """A foundation model and how it is trained."""

    removed: ClassVar[Mapping[str, str]] = {
        "warm_start": "a model goes on from its last state below the root; leave it out",
        "snapshot_every": "each window that a model learns leaves a state; leave it out",
    }

    name: Annotated[
        str,
        like("[a-z][a-z0-9_]{0,29}", "a lower-case letter, then such, digits and underscores; at most 30 in all"),
    ] = "fm"
    """Part of its pseudo-label columns' names: lower-case letters, digits and underscores, 30 at most."""
    features: tuple[str, ...] = ()
    """Features of the schema that it reads; empty: all."""
    tasks: tuple[str, ...] = ()
    """Labels of the schema that it learns and teaches; empty: all."""
    model: ModelConfig = ModelConfig(network=NetworkConfig(top_units=(128, 64)), dim_factor=12)
    """Settings of the foundation model's network and tables. The defaults give it over ten times the parameters of a
    vertical model."""
    training: FoundationTrainingConfig = FoundationTrainingConfig()
    published: str = ""
    """Folder or URL of a foundation model that another run trains (its `models/NAME`). This run scores by its states
    and does not train it, so `features`, `model` and `training` do not count. Empty: this run trains it."""

    def resolved(self, base: Path) -> Self:
        """Return the settings with a local `published` made absolute; a relative one starts at `base`."""
        published = resolve_path(self.published, base=base) if self.published else ""
        return self.model_copy(update={"published": published})
