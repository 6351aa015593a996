"""Models go on: each window is predicted by a state that could have existed at its start, then learned once.

A state knows nothing later than `known_until`, the end of its last window plus the schema's longest attribution window.
It may predict a window that starts `allowed_lateness` after that. Windows are taken in order of time.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import numpy as np
import polars as pl

from exfm.das.closing import LogState
from exfm.das.config import HISTORY_EXAMPLES, HISTORY_WINDOWS
from exfm.das.joining import labelled_rows, slice_of
from exfm.das.line_states import LineStates
from exfm.das.scoring import FM, Teacher, score_window
from exfm.events.examples import Examples, Floats, examples_of, label_column
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.schema import pseudo_age_column, pseudo_label_column
from exfm.tables.commit import commit, stage
from exfm.training.line import Line, LineScorer, LineTrainer

Did = tuple[Literal["predict", "learn"], int]
"""A window that was predicted or learned."""


class LineWorker(ABC):
    """Does what is due for one line."""

    def __init__(self, state: LogState, line: Line) -> None:
        self.state, self.line = state, line
        self.states = LineStates(state, line)
        self._trainer: LineTrainer | None = None

    @abstractmethod
    def known(self) -> set[int]:
        """Return the windows that can be learned."""

    @abstractmethod
    def open(self) -> set[int]:
        """Return the windows that can be predicted and were not."""

    @abstractmethod
    def predict(self, window: int) -> bool:
        """Commit a window's predictions; return whether this run did it."""

    @abstractmethod
    def rows(self, window: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return a window's rows to learn, and what was predicted of them, by key."""

    def advance(self) -> Iterator[Did]:
        """Predict and learn what is due, in order of time, and yield each window that this run did.

        Raises: DataError for unusable examples, or if the model diverged.
        """
        lessons = sorted(self.known() - set(self.states.learned))
        still_open = self.open()
        for window in sorted(still_open):
            while lessons and lessons[0] < window and self.states.may_predict(lessons[0], window):
                yield from self._learn(lessons.pop(0))
            if self.predict(window):
                yield ("predict", window)
        for lesson in lessons:
            yield from self._learn(lesson)

    def _learn(self, window: int) -> Iterator[Did]:
        if self._trainer is None:
            self._trainer = self._begun()
        line, das = self.line, self.state.das
        examples, scores_BT = self._examples(window)
        if not len(examples):  # of a vertical model's domains
            return
        parent = line.version(self.states.learned[-1]) if self.states.learned else ""
        self._trainer.learn(das.grid.window(window), examples, scores_BT)
        inputs = {name: getattr(self.state, name).version for name in ("impressions", "labels", "examples")}
        row = {
            "model": line.name, "line": line.digest, "version": line.version(window), "parent": parent,
            "folder": line.folder("", window).lstrip("/"), "inputs": json.dumps(inputs),
            "known_until": self.states.known_until(window),
        }  # fmt: skip
        table = das.snapshots()
        file = stage(table, pl.DataFrame([row], schema=dict(table.columns)), window=window, part=line.part)
        did = commit(table, [file], item=f"snapshots/{line.part}/{window}", inputs=inputs)
        self.states.learned.append(window)
        if did:
            yield ("learn", window)

    def _begun(self) -> LineTrainer:
        trainer = LineTrainer(self.line, self.state.das.root)
        if self.states.learned:
            trainer.go_on(self.states.learned[-1])
            for window in self._history():
                trainer.learner.begin(self.state.das.grid.window(window), *self._examples(window))
        return trainer

    def _history(self) -> list[int]:
        """Return the last windows that were learned and are kept, in order of time, with examples enough."""
        kept, num_examples = self.known(), 0
        windows: list[int] = []
        for window in reversed(self.states.learned):
            if window not in kept or (len(windows) >= HISTORY_WINDOWS and num_examples >= HISTORY_EXAMPLES):
                break
            windows.append(window)
            num_examples += self.state.labels.num_rows([window])
        return windows[::-1]

    def _examples(self, window: int) -> tuple[Examples, Floats]:
        """Return a window's examples, and the probabilities before, [B, T]: 0.5 where no state was there."""
        rows, predicted = self.rows(window)
        key, tasks = self.state.das.rules.key, self.line.schema.tasks()
        joined = rows.select(key).join(predicted.select(key, *tasks), on=key, how="left", maintain_order="left")
        scores_BT: Floats = joined.select(pl.col(tasks).fill_null(0.5)).to_numpy().astype(np.float32)
        return examples_of(rows, self.line.schema, teachers=self.line.teachers), scores_BT


class FoundationWorker(LineWorker):
    """A foundation model predicts complete windows, which gives pseudo-labels, and learns closed ones."""

    def __init__(self, state: LogState, line: Line) -> None:
        super().__init__(state, line)
        self._teacher = Teacher(line.name, line.schema, line.model, self.states)

    def known(self) -> set[int]:
        """Return the windows with labels, but those of which each row is a duplicate."""
        labels = self.state.labels
        return {window for window in labels.files if labels.num_rows([window])}

    def open(self) -> set[int]:
        """Return complete windows without its pseudo-labels."""
        return {
            window
            for window in self.state.windows
            if self.state.complete_with(window) is not None
            and not self.state.pseudo_labels.newest_revision(window, part=self.line.name)
        }

    def predict(self, window: int) -> bool:
        """Commit its pseudo-labels of a window; return whether this run did it."""
        return score_window(self.state, window, self.line.name, self._teacher)

    def rows(self, window: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return impressions with labels, and its pseudo-labels."""
        das = self.state.das
        pseudo = das.pseudo_labels(self.state.impressions.columns[das.rules.key]).state().read([window])
        return labelled_rows(self.state, window), pseudo.filter(pl.col(FM) == self.line.name)


class VerticalWorker(LineWorker):
    """A vertical model predicts and learns the examples of its domains."""

    def __init__(self, state: LogState, line: Line) -> None:
        super().__init__(state, line)
        self._scorer = LineScorer(line.schema, line.model)

    def known(self) -> set[int]:
        """Return the windows with examples, but those of which none is of its domains."""
        predicted = self.state.predictions.files
        return {
            window
            for window in self.state.examples.files
            if all(file.num_rows for file in predicted.get(window, ()) if file.part == self.line.part)
        }

    def open(self) -> set[int]:
        """Return windows with examples, and without its predictions."""
        predictions = self.state.predictions
        return {window for window in self.known() if not predictions.newest_revision(window, part=self.line.part)}

    def predict(self, window: int) -> bool:
        """Commit its predictions of a window; return whether this run did it."""
        das, schema = self.state.das, self.line.schema
        rows, snapshot = self._slice(window), self.states.for_window(window)
        scores = rows.select(
            das.rules.key,
            pl.lit(self.line.name).alias("model"),
            pl.lit(self.line.digest).alias("line"),
            pl.lit(snapshot.version if snapshot else None, dtype=pl.String).alias("version"),
            *(pl.lit(None, dtype=pl.Float32).alias(task) for task in das.schema.tasks()),
        )
        if snapshot is not None and rows.height:
            batches = encode_examples(raw_columns(rows.to_arrow(), schema), schema)
            scores_BT = self._scorer.probabilities(batches, snapshot.folder)
            scores = scores.with_columns(pl.Series(task, scores_BT[:, t]) for t, task in enumerate(schema.tasks()))
        table = das.predictions(rows.schema[das.rules.key])
        file = stage(table, scores, window=window, part=self.line.part)
        inputs = {"examples": self.state.examples.version}
        return commit(table, [file], item=f"predictions/{self.line.part}/{window}", inputs=inputs)

    def rows(self, window: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return its examples, and its predictions."""
        das = self.state.das
        predicted = das.predictions(self.state.impressions.columns[das.rules.key]).state().read([window])
        is_own = (pl.col("model") == self.line.name) & (pl.col("line") == self.line.digest)
        return self._slice(window), predicted.filter(is_own)

    def _slice(self, window: int) -> pl.DataFrame:
        """Return what it reads of the examples of its domains, in order of time."""
        rules, line = self.state.das.rules, self.line
        tasks = line.schema.tasks()
        columns = [*sorted(line.schema.context_columns()), *line.schema.feature_names(), *map(label_column, tasks)]
        for teacher in line.teachers:
            columns += [*(pseudo_label_column(teacher, task) for task in tasks), pseudo_age_column(teacher)]
        rows = slice_of(self.state, window, domains=line.domains, columns=list(dict.fromkeys(columns)))
        return rows.sort(rules.time, rules.key)
