"""One model's walk over a log: predictions, qualities and snapshots, written as it goes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch

from exfm.artifact.manifest import Window
from exfm.artifact.storage import Ref
from exfm.errors import DataError
from exfm.events.examples import Examples, Floats, examples_of, read_frame
from exfm.events.partitions import read_partition, write_partition
from exfm.schema import Schema
from exfm.training.checkpoint import copy_weights, load_references, save_references, save_weights
from exfm.training.config import TrainingConfig
from exfm.training.evaluation import SCORE, overall, record_predictions, recorded_predictions
from exfm.training.learner import Learner
from exfm.training.loop import walk_windows
from exfm.training.manifest import PREDICTIONS, ModelManifest, Snapshot, WindowQuality
from exfm.training.reference import References
from exfm.training.trainer import Trainer

OnWindow = Callable[[int, int], None]
"""Called after each window of a walk, with the number of windows that are done and of all."""

_WHAT_HELPS = "training diverged; normalise dense features, or lower learning_rate"


@dataclass(frozen=True)
class Data:
    """What a model learns from."""

    datasets: Sequence[Path]
    """Joined by impression key; the first one gives the rows and their order."""
    log_schema: Schema
    schema: Schema
    """The part that the model uses."""
    windows: Sequence[Window]
    known_until: int
    """End of what the labels saw, in event time."""
    domains: Sequence[str] = ()
    """Empty: all."""
    kind: Literal["foundation", "vertical"] = "foundation"
    teachers: Sequence[str] = ()
    """Foundation models whose pseudo-labels are read; empty: none."""
    label_revision: str = ""
    inputs: Mapping[str, Ref] = field(default_factory=dict)
    """Outputs of other stages that the model is made from, by name."""

    @property
    def label_delay(self) -> int:
        """Return how long after a window's end all its labels are known, in event time."""
        return max(label.attribution_window for label in self.schema.labels)

    def frame(self, window: Window) -> pl.DataFrame:
        """Return one window's rows.

        Raises: DataError if a partition is missing or does not fit the others.
        """
        frame = read_frame(self.datasets, window, self.log_schema)
        return frame.filter(pl.col(self.schema.domain).is_in(list(self.domains))) if self.domains else frame


@dataclass(frozen=True)
class Start:
    """Where an earlier run stopped."""

    folder: Path
    manifest: ModelManifest

    @property
    def snapshot(self) -> Snapshot:
        """Return the state to go on from."""
        return self.manifest.snapshots[-1]

    @property
    def learned(self) -> tuple[Window, ...]:
        """Return the windows up to the last one that was learned; all their labels were known."""
        return tuple(window for window in self.manifest.windows if window.index <= self.snapshot.window)

    def quality_on(self, window: Window) -> WindowQuality | None:
        """Return what was found on a window, or None where it was not tested."""
        return next((quality for quality in self.manifest.qualities if quality.window == window.index), None)


class _Journal:
    """Keeps predictions, qualities and snapshots during a walk."""

    def __init__(
        self,
        learner: Learner,
        references: References,
        data: Data,
        *,
        folder: Path,
        name: str,
        snapshot_every: int,
    ) -> None:
        self._learner, self._references, self._data, self._folder = learner, references, data, folder
        self._name, self._snapshot_every = name, snapshot_every
        self._num_learned = 0
        self._start: Start | None = None
        self.last: Snapshot | None = None
        self.snapshots: list[Snapshot] = []
        self.tested: list[Window] = []
        self.qualities: list[WindowQuality] = []

    def go_on(self, start: Start) -> None:
        """Keep what one long run would have kept by now: all snapshots, and what was found up to the last of them."""
        self._start = start
        for snapshot in start.manifest.snapshots:
            copy_weights(start.folder / snapshot.folder, self._folder / snapshot.folder)
            self.snapshots.append(snapshot)
        self.last = start.snapshot
        for window in start.learned:
            quality = start.quality_on(window)
            if quality is not None and self._copied(window, start.folder / PREDICTIONS):
                self.tested.append(window)
                self.qualities.append(quality)

    def _copied(self, window: Window, predictions: Path) -> bool:
        """Copy a window's predictions, unless its impressions are others by now: it then counts as not tested."""
        before, key = read_partition(predictions, window), self._data.schema.impression_key
        now = read_partition(self._data.datasets[0], window, columns=[key])
        if not before[key].sort().equals(now[key].sort()):
            return False
        write_partition(before, self._folder / PREDICTIONS, window)
        return True

    def keep_predictions(self, window: Window, examples: Examples, scores_BT: Floats) -> None:
        if not np.isfinite(scores_BT).all():
            raise DataError(f"{self._name}: scores of window {window.index} are no numbers: {_WHAT_HELPS}")
        schema, predictions = self._data.schema, {SCORE: scores_BT} | self._references.test(examples)
        if self._start is not None and self._start.quality_on(window) is not None:  # the learner knows more by now
            before = recorded_predictions(
                self._start.folder / PREDICTIONS, window, examples=examples, schema=schema, sources=predictions
            )
            predictions = {
                source: np.where(np.isnan(before[source]), now_BT, before[source])
                for source, now_BT in predictions.items()
            }
        tasks = record_predictions(
            self._folder / PREDICTIONS, window, examples=examples, predictions=predictions, schema=schema
        )
        tables = self._references.add_ids(window, examples)
        self.tested.append(window)
        self.qualities.append(WindowQuality(window=window.index, tasks=tasks, tables=tables))

    def note_learned(self, window: Window, examples: Examples) -> None:
        self._references.learn(window, examples)
        version = f"{self._name}-{window.index:05d}"
        self.last = Snapshot(
            version=version,
            folder=f"snapshots/{version}",
            window=window.index,
            known_until=window.end + self._data.label_delay,
        )
        self._num_learned += 1
        if self._snapshot_every and self._num_learned % self._snapshot_every == 0:
            self.keep_snapshot(self.last)

    def keep_snapshot(self, snapshot: Snapshot) -> None:
        save_weights(self._learner, self._folder / snapshot.folder)
        self.snapshots.append(snapshot)


def run_training(
    learner: Learner,
    data: Data,
    config: TrainingConfig,
    *,
    folder: Path,
    name: str,
    snapshot_every: int,
    start: Start | None = None,
    on_window: OnWindow = lambda num_done, num_windows: None,
) -> ModelManifest:
    """Walk a learner over its data, write predictions/ and snapshots/ into `folder`; return the model's manifest.

    Reference lines learn and are tested with it. `snapshot_every` windows give a snapshot; 0 keeps the last only. With
    `start` the walk goes on after the last window that was learned there, and leaves what one long run would, but that
    `snapshot_every` counts from there. Where the earlier log held a part of a window only, the rest is scored by the
    model that the walk starts from: it knew nothing later.

    Raises: DataError for unusable examples, if no window's labels are known, if training diverged, or if impressions
    that `start` scored are not there; StorageError if `start` holds another model.
    """
    torch.set_num_threads(config.torch_threads)
    trainer = Trainer(learner, config)
    windows = data.windows
    if start is not None:
        windows = [window for window in windows if window.index > start.snapshot.window]
    references = References(data.schema)
    journal = _Journal(learner, references, data, folder=folder, name=name, snapshot_every=snapshot_every)
    if start is not None:
        trainer.go_on(start.folder / start.snapshot.folder)
        references.restore(load_references(start.folder / start.snapshot.folder))
        journal.go_on(start)
    num_before = len(journal.tested)

    def keep(window: Window, examples: Examples, scores_BT: Floats) -> None:
        journal.keep_predictions(window, examples, scores_BT)
        on_window(len(journal.tested) - num_before, len(windows))

    walk_windows(
        trainer,
        windows,
        read=lambda window: examples_of(data.frame(window), data.schema, teachers=data.teachers),
        label_delay=data.label_delay,
        known_until=data.known_until,
        on_tested=keep,
        on_trained=journal.note_learned,
    )
    if journal.last is None:
        raise DataError(
            f"{name}: no window's labels are all known at the log's end, {data.known_until}; the log needs at least "
            f"one window and the longest attribution window after it: take shorter windows or a longer log"
        )
    _require_finite(learner, name=name)
    if journal.last not in journal.snapshots:
        journal.keep_snapshot(journal.last)
    trainer.save_state(folder / journal.last.folder)
    save_references(references.state(), folder / journal.last.folder)
    found = overall(
        folder / PREDICTIONS,
        journal.tested,
        schema=data.schema,
        warmup_windows=config.warmup_windows,
        references=references.lines,
    )
    return ModelManifest(
        kind=data.kind,
        name=name,
        windows=tuple(data.windows),
        label_revision=data.label_revision,
        inputs=dict(data.inputs),
        feature_schema=data.schema,
        domains=tuple(data.domains),
        teachers=tuple(data.teachers),
        model=learner.model.config,
        training=config,
        num_parameters=learner.model.num_parameters(),
        snapshots=tuple(journal.snapshots),
        qualities=tuple(journal.qualities),
        overall=found.own,
        references=found.references,
        over_base_rate=found.over_base_rate,
    )


def _require_finite(learner: Learner, *, name: str) -> None:
    """Check the weights that the last windows left, which no later window tests."""
    if not all(bool(value.isfinite().all()) for _, value in learner.dense_parameters()):
        raise DataError(f"{name}: weights are no numbers after the last window: {_WHAT_HELPS}")
