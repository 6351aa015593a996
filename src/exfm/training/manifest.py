"""What the training of a model leaves behind: the same for foundation and vertical models."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field

from exfm.artifact.manifest import Manifest, Window
from exfm.config import Config
from exfm.events.examples import ExampleTable
from exfm.metrics.quality import Quality
from exfm.models.config import ModelConfig
from exfm.schema import WrittenSchema
from exfm.tables.reference import TableRef
from exfm.training.config import TrainingConfig

EXAMPLES, PREDICTIONS = "examples", "predictions"
"""Names of the tables that a model's manifest refers to."""

BASE_RATE, LOGISTIC = "base_rate", "logistic"
"""Names of the reference lines (exfm.training.reference), which begin columns of the recorded predictions."""


SCORE = "score"
"""Begins the names of the columns with the model's own predictions."""


def prediction_columns(tasks: Sequence[str]) -> dict[str, pl.DataType]:
    """Return the types of the columns that a prediction has for each of these tasks."""
    kinds = ("label", "weight", SCORE, BASE_RATE, LOGISTIC)
    return {f"{kind}.{task}": pl.Float32() for kind in kinds for task in tasks}


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
    """Below the folder of the model's manifest: the state after its last window."""
    window: int
    """The last window learned."""
    known_until: int
    """When the last label used was known, in event time: the snapshot knows nothing later."""
    examples: int = -1
    """Version of the table of examples that the window was learned from; -1: there was none yet."""
    digest: str = ""
    """SHA-256 of the weights; empty: not known."""


class ModelManifest(Manifest):
    """A model as it is after the last window that it learned, and what it predicted of each window before."""

    kind: Literal["foundation", "vertical"]
    name: str
    line: str
    """Name and digest of its settings, by which the table of predictions names its rows."""
    tables: dict[str, TableRef]
    """Versions of the tables that its figures are of: PREDICTIONS, and of a vertical model EXAMPLES."""
    window_length: int
    """In event time."""
    first_learned: int
    """The first window that it ever learned; it may have been removed since."""
    counted_from: int
    """The first window after the warm-up."""
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

    def examples(self) -> ExampleTable:
        """Return the table of examples that a vertical model learned from.

        Raises: StorageError if that version is not there, or the store does not answer.
        """
        return ExampleTable(self.tables[EXAMPLES].state(), self.feature_schema, self.window_length)

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

    @property
    def counted(self) -> tuple[Window, ...]:
        """Return the windows after the warm-up that have predictions, in order of time."""
        return tuple(window for window in self.windows if window.index >= self.counted_from)

    @property
    def learned_until(self) -> int:
        """Return the end of the last window that it learned, in event time."""
        return (self.snapshots[-1].window + 1) * self.window_length

    def snapshot_for(self, start: int) -> Snapshot | None:
        """Return the newest snapshot that knows nothing later than `start`, or None if there is none yet."""
        return max(
            (snapshot for snapshot in self.snapshots if snapshot.known_until <= start),
            key=lambda snapshot: snapshot.known_until,
            default=None,
        )
