"""Pseudo-labels: each impression scored once by a foundation model that could have existed when it was shown.

A window is scored as soon as its impressions are complete, before its labels are known. It waits for the newest
snapshot that may score it, for `fm_wait` at most.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import polars as pl

from exfm.artifact.storage import Ref, reading
from exfm.artifact.stores import join
from exfm.das.attribution import ARRIVAL, AT, ROW, located
from exfm.das.closing import LogState
from exfm.das.line_states import LineStates
from exfm.das.log_tables import AGE, FM, SNAPSHOT, Das
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.models.config import ModelConfig
from exfm.schema import Schema
from exfm.tables.commit import commit, stage
from exfm.training.crew import SOLO, Crew
from exfm.training.line import Line
from exfm.training.line_trainer import LineScorer
from exfm.training.manifest import ModelManifest, Snapshot

FoundationModel = Line | Ref | None
"""A foundation model: one that is trained here, or a published one; None: not published yet."""


class Snapshots(Protocol):
    """The states of a foundation model."""

    def for_window(self, window: int) -> Snapshot | None:
        """Return the newest that could have existed at a window's start; None: there is none."""

    def may_bring_newer(self, window: int) -> bool:
        """Return whether a state that is still to come may score a window."""


class Teacher:
    """A foundation model that scores, each window by the newest snapshot that may."""

    def __init__(self, schema: Schema, model: ModelConfig, snapshots: Snapshots, crew: Crew = SOLO) -> None:
        self.schema, self.snapshots = schema, snapshots
        self._scorer = LineScorer(schema, model, crew)

    def snapshot_for(self, window: int, das: Das) -> Snapshot | None:
        """Return the snapshot that scores a window; None: there is none, or it is older than `max_age`."""
        newest = self.snapshots.for_window(window)
        start = das.grid.window(window).start // das.ticks(1)
        is_old = newest is not None and 0 < das.config.max_age < start - newest.known_until
        return None if is_old else newest

    def score(self, impressions: pl.DataFrame, fm: str, snapshot: Snapshot | None, das: Das) -> pl.DataFrame:
        """Return key, probabilities and snapshot of impressions that have the schema's features; `fm` is its name."""
        scores = unscored(impressions, fm, das)
        if snapshot is None or impressions.is_empty():
            return scores
        batches = encode_examples(raw_columns(impressions.to_arrow(), self.schema), self.schema)
        probabilities_BT = self._scorer.probabilities(batches, snapshot.folder)
        seconds = impressions[das.rules.time].to_physical() // das.ticks(1)
        return scores.with_columns(
            pl.lit(snapshot.version).alias(SNAPSHOT),
            pl.Series(AGE, seconds - snapshot.known_until),
            *(
                pl.Series(task, probabilities_BT[:, t])
                for t, task in enumerate(self.schema.tasks())
                if task in scores.columns  # a published model may teach what the log has no labels of
            ),
        )


class PublishedSnapshots:
    """Snapshots of a foundation model that another run trained."""

    def __init__(self, manifest: ModelManifest, uri: str, das: Das) -> None:
        self._manifest, self._uri, self._das = manifest, uri, das

    def for_window(self, window: int) -> Snapshot | None:
        """Return the newest that knew nothing later than `allowed_lateness` before a window's start."""
        newest = self._manifest.snapshot_for(self._start(window))
        return newest and newest.model_copy(update={"folder": join(self._uri, newest.folder)})

    def may_bring_newer(self, window: int) -> bool:
        """Return whether a snapshot after the last one may score a window."""
        last, of_last = self._manifest.snapshots[-1], self._manifest.windows[-1]
        return last.known_until + (of_last.end - of_last.start) <= self._start(window)

    def _start(self, window: int) -> int:
        das = self._das
        return das.grid.window(window).start // das.ticks(1) - das.config.allowed_lateness


def unscored(impressions: pl.DataFrame, fm: str, das: Das) -> pl.DataFrame:
    """Return key and null pseudo-labels of impressions that go without a foundation model."""
    return impressions.select(
        das.rules.key,
        pl.lit(fm).alias(FM),
        pl.lit(None, dtype=pl.String).alias(SNAPSHOT),
        pl.lit(None, dtype=pl.Int64).alias(AGE),
        *(pl.lit(None, dtype=pl.Float32).alias(task) for task in das.schema.tasks()),
    )


@contextmanager
def teaching(foundation: FoundationModel, state: LogState) -> Iterator[Teacher | None]:
    """Yield what scores by a foundation model; None where none is published.

    Raises: StorageError if it is damaged, or was written again since.
    """
    if foundation is None:
        yield None
        return
    das = state.das
    if isinstance(foundation, Line):
        yield Teacher(foundation.schema, foundation.model, LineStates(state, foundation))
        return
    with reading(foundation) as folder:
        manifest = ModelManifest.read(folder)
        snapshots = PublishedSnapshots(manifest, foundation.uri, das)
        yield Teacher(manifest.feature_schema, manifest.model, snapshots)


def is_waiting(state: LogState, window: int, teacher: Teacher | None) -> bool:
    """Return whether a window should wait for a snapshot: a newer one may come, and `fm_wait` is not over."""
    das = state.das
    is_over = state.timeline.passed(das.grid.window(window).end + das.ticks(das.config.fm_wait)) is not None
    return not is_over and (teacher is None or teacher.snapshots.may_bring_newer(window))


def score_window(state: LogState, window: int, fm: str, teacher: Teacher | None, *, again: bool = False) -> bool:
    """Commit a foundation model's pseudo-labels of a complete window; return whether this run did it.

    With `again` they are a new revision.
    """
    das = state.das
    table = das.pseudo_labels(state.impressions.columns[das.rules.key])
    revision = state.pseudo_labels.newest_revision(window, part=fm) + 1 if again else 1
    files = [
        stage(table, scores, window=window, part=fm, revision=revision)
        for scores in scores_of(state, window, fm, teacher, teacher.snapshot_for(window, das) if teacher else None)
    ]
    return commit(
        table,
        files,
        item=f"pseudo_labels/{fm}/{window}",
        revision=revision,
        replaces=window,
        part=fm,
        inputs={"impressions": state.impressions.version},
    )


def scores_of(
    state: LogState, window: int, fm: str, teacher: Teacher | None, snapshot: Snapshot | None
) -> Iterator[pl.DataFrame]:
    """Yield pseudo-labels of a window's impressions, those of one file of the table at a time."""
    das, key, time = state.das, state.das.rules.key, state.das.rules.time
    unique = state.unique_impressions(window).sort(time, key)
    features = teacher.schema.feature_names() if teacher and snapshot else ()
    columns = list(dict.fromkeys([key, time, ARRIVAL, ROW, *features]))
    for rows in state.impressions.files_of(window, columns=columns):
        impressions = rows.drop(ARRIVAL, ROW)[located(unique, rows, key=key)[AT]]
        yield teacher.score(impressions, fm, snapshot, das) if teacher else unscored(impressions, fm, das)
