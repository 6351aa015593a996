"""What the training of a model leaves behind: the same for foundation and vertical models."""

from typing import Annotated, Literal

from pydantic import Field

from exfm.artifact.manifest import Manifest
from exfm.config import Config
from exfm.metrics import Quality
from exfm.models.config import ModelConfig
from exfm.schema import WrittenSchema
from exfm.training.config import TrainingConfig

LABEL_ONLY = "label-only"
"""The folder of the twin without a teacher, in a vertical model's output."""

PREDICTIONS = "predictions"
"""The folder of the predictions made before training, in a model's output."""


class WindowQuality(Config):
    """A model's quality on one window, by task, before it learned from it."""

    window: int
    tasks: dict[str, Quality]


class Snapshot(Config):
    """A model as it was after some windows."""

    version: str
    folder: str
    """Below the model's output: weights.safetensors, and training.safetensors in the last one."""
    window: int
    """The last window learned."""
    known_until: int
    """When the last label used was known, in event time: the snapshot knows nothing later."""


class ModelManifest(Manifest):
    """A trained model."""

    removed = {"alone": "set label_only"}

    kind: Literal["foundation", "vertical"]
    name: str
    feature_schema: WrittenSchema
    """The part of the log's schema that the model uses."""
    domains: tuple[str, ...] = ()
    """Whose examples it learned from; empty: all."""
    teacher: str = ""
    """The foundation model whose pseudo-labels it learned from; empty: none."""
    model: ModelConfig
    training: TrainingConfig
    num_parameters: Annotated[int, Field(ge=1)]
    """Numbers that serving would need."""
    snapshots: tuple[Snapshot, ...]
    """Snapshots in order of time."""
    qualities: tuple[WindowQuality, ...]
    """Quality of each tested window."""
    overall: dict[str, Quality]
    """Quality over all tested windows after the warm-up, by task."""
    label_only: dict[str, Quality] = {}
    """The same of a twin that had no teacher; empty where none was trained."""

    def headline(self) -> str:
        """Return one line about this stage's output."""
        figures = ", ".join(
            f"{task} NE {q.normalized_entropy:.4f} AUC {q.auc:.4f}"
            for task, q in self.overall.items()
            if q.normalized_entropy is not None and q.auc is not None
        )
        return (
            f"{self.name}: {self.num_parameters:,} parameters, {len(self.qualities)} windows, {figures or 'no figure'}"
        )

    def snapshot_for(self, start: int) -> Snapshot | None:
        """Return the newest snapshot that knows nothing later than `start`, or None if there is none yet."""
        return max(
            (snapshot for snapshot in self.snapshots if snapshot.known_until <= start),
            key=lambda snapshot: snapshot.known_until,
            default=None,
        )
