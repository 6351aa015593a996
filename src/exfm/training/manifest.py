"""What the training of a model leaves behind: the same for foundation and vertical models."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from exfm.artifact.manifest import Manifest
from exfm.config import Config
from exfm.metrics import Quality
from exfm.models.config import ModelConfig
from exfm.schema import WrittenSchema
from exfm.training.config import TrainingConfig

PREDICTIONS = "predictions"
"""The folder of the predictions made before training, in a model's output."""

WINDOW = "window.index"
"""The column of the window that a row is of; with a dot, so that no column of a schema can have its name."""

BASE_RATE, LOGISTIC = "base_rate", "logistic"
"""Names of the reference lines (exfm.training.reference), which begin columns of the recorded predictions."""


class TableIds(Config):
    """Ids that a model looked up in one table in one window; None where there were none."""

    num_ids: int
    """Each as often as it occurs."""
    unseen: float | None
    """Share of these ids that no earlier window had; 0 to 1."""
    num_keys: int
    """Distinct ids of this window and all before it."""
    collisions: float | None
    """Share of these distinct ids that share their row with another; 0 to 1."""


class WindowQuality(Config):
    """A model's quality on one window, by task, before it learned from it, and what the window's ids were."""

    window: int
    tasks: dict[str, Quality]
    tables: dict[str, TableIds] = {}


class Excess(Config):
    """A model's normalized entropy less the base rate's, on the same examples."""

    entropy: float
    low: float | None = None
    """Lower end of the 95 % interval, by a bootstrap over windows; None: there are fewer than two."""
    high: float | None = None
    """Its upper end."""

    def __str__(self) -> str:
        """Return the excess with its interval, as text."""
        if self.low is None or self.high is None:
            return f"{self.entropy:+.4f}"
        return f"{self.entropy:+.4f}, 95 % interval [{self.low:+.4f}, {self.high:+.4f}]"


class TeacherWeight(Config):
    """How strongly one task learned from one teacher in one window, as method `auto` chose, and why."""

    removed: ClassVar[Mapping[str, str]] = {"is_adapted": "leave it out; `auto` has no student adapter"}

    window: int
    """The window that was learned."""
    teacher: str
    task: str
    weight: float
    """Of the pseudo-labels' loss; 0: none."""
    lead: float | None
    """Of normalized entropy, on the windows before and this one; None where these are too few to tell."""
    lead_std_error: float | None
    """By chance alone."""


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

    removed = dict.fromkeys(("alone", "label_only"), "leave it out; `exfm distill compare` has it")

    kind: Literal["foundation", "vertical"]
    name: str
    feature_schema: WrittenSchema
    """The part of the log's schema that the model uses."""
    domains: tuple[str, ...] = ()
    """Whose examples it learned from; empty: all."""
    teachers: tuple[str, ...] = ()
    """The foundation models whose pseudo-labels it learned from; empty: none."""
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
    references: dict[str, dict[str, Quality]] = {}
    """Quality of the reference lines on the same examples, by their names."""
    over_base_rate: dict[str, Excess] = {}
    """NE less the base rate's, by task; without tasks whose NE is not defined."""
    teacher_weights: tuple[TeacherWeight, ...] = ()
    """Weights that method `auto` gave, in the order of windows; empty: another method."""

    @model_validator(mode="before")
    @classmethod
    def _read_one_teacher(cls, written: Any) -> Any:
        """Read what earlier releases wrote, whose models had one `teacher` at most."""
        if not isinstance(written, Mapping) or "teacher" not in written:
            return written
        others = {key: value for key, value in written.items() if key != "teacher"}
        return others | {"teachers": (written["teacher"],) if written["teacher"] else ()}

    def warnings(self) -> tuple[str, ...]:
        """Return a sentence for each task on which this model's NE is above the base rate's."""
        return tuple(
            f"{self.name} is worse than the base rate on {task}: NE difference {excess}"
            for task, excess in self.over_base_rate.items()
            if excess.entropy > 0
        )

    def headline(self) -> str:
        """Return one line about this stage's output."""
        figures = ", ".join(
            f"{task} NE {q.normalized_entropy:.4f} AUC {q.auc:.4f}"
            for task, q in self.overall.items()
            if q.normalized_entropy is not None and q.auc is not None
        )
        about = f"{self.num_parameters:,} parameters, {len(self.qualities)} windows, {figures or 'no figure'}"
        return "; ".join((*self.warnings(), f"{self.name}: {about}{self._told_weights()}"))

    def _told_weights(self) -> str:
        """Return what method `auto` chose for the last window that was learned; nothing of another method."""
        last = [chosen for chosen in self.teacher_weights if chosen.window == self.teacher_weights[-1].window]
        parts = []
        for chosen in last:
            source = f"{chosen.teacher} " if len(self.teachers) > 1 else ""
            why = "too few positives" if chosen.lead is None else "no lead"
            why = f"lead {chosen.lead:.1%}".replace("%", " %") if chosen.weight and chosen.lead else why
            parts.append(f"{source}{chosen.task} {chosen.weight:.2g} ({why})")
        return f"; auto: {', '.join(parts)}" if parts else ""

    def snapshot_for(self, start: int) -> Snapshot | None:
        """Return the newest snapshot that knows nothing later than `start`, or None if there is none yet."""
        return max(
            (snapshot for snapshot in self.snapshots if snapshot.known_until <= start),
            key=lambda snapshot: snapshot.known_until,
            default=None,
        )
