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
from exfm.das.joining import example_table, labelled_rows
from exfm.das.line_states import LineStates, known_windows
from exfm.das.log_tables import SNAPSHOT, VERSION
from exfm.das.scoring import Teacher, score_window
from exfm.events.examples import Examples, Floats, examples_of
from exfm.tables.commit import commit, stage
from exfm.training.crew import SOLO, Crew
from exfm.training.data import Data
from exfm.training.evaluation import prediction_rows
from exfm.training.line import Line
from exfm.training.line_trainer import LineTrainer, Predictor
from exfm.training.manifest import SCORE

Did = tuple[Literal["predict", "learn"], int]
"""A window that was predicted or learned."""


class LineWorker(ABC):
    """Does what is due for one line."""

    def __init__(self, state: LogState, line: Line, crew: Crew = SOLO) -> None:
        self.state, self.line, self._crew = state, line, crew
        self.states = LineStates(state, line)
        self.predictor = Predictor(line, crew)
        self._trainer: LineTrainer | None = None

    def known(self) -> set[int]:
        """Return the windows that can be learned."""
        return known_windows(self.state, self.line)

    @abstractmethod
    def open(self) -> set[int]:
        """Return the windows that can be predicted and were not."""

    @abstractmethod
    def predict(self, window: int) -> bool:
        """Commit a window's predictions; return whether this run did it."""

    @abstractmethod
    def examples(self, window: int) -> tuple[Examples, Floats]:
        """Return a window's examples to learn, and the probabilities before, [B, T]; 0.5: no state was there."""

    @abstractmethod
    def record(self, window: int, examples: Examples, scores_BT: Floats) -> None:
        """See to it that a window's predictions are committed before it is learned."""

    def commit_predictions(self, window: int, examples: Examples, predictions: dict[str, Floats]) -> bool:
        """Commit predictions by source, [B, T], of a window's examples; return whether this run did it."""
        das, line, snapshot = self.state.das, self.line, self.states.for_window(window)
        table = das.predictions(self.state.impressions.columns[das.rules.key])
        rows = prediction_rows(examples, predictions, line.schema).with_columns(
            pl.lit(line.name).alias("model"),
            pl.lit(line.digest).alias("line"),
            pl.lit(snapshot.version if snapshot else None, dtype=pl.String).alias(VERSION),
        )
        untaught = {name: dtype for name, dtype in table.columns.items() if name not in rows.columns}
        rows = rows.with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in untaught.items())
        file = stage(table, rows, window=window, part=line.part)
        inputs = {"examples": self.state.examples.version}
        return commit(table, [file], item=f"predictions/{line.part}/{window}", inputs=inputs)

    def advance(self) -> Iterator[Did]:
        """Predict and learn what is due, in order of time, and yield each window that this run did.

        Raises: DataError for unusable examples, or if the model diverged.
        """
        unlearned = sorted(self.known() - set(self.states.learned))
        still_open = self.open()
        for window in sorted(still_open):
            while unlearned and unlearned[0] < window and self.states.may_predict(unlearned[0], window):
                yield from self._learn(unlearned.pop(0))
            if self.predict(window):
                yield ("predict", window)
        for window in unlearned:
            yield from self._learn(window)

    def _learn(self, window: int) -> Iterator[Did]:
        if self._trainer is None:
            self._trainer = self._begun()
        line, das = self.line, self.state.das
        examples, scores_BT = self.examples(window)
        if not len(examples):  # of a vertical model's domains
            return
        self.record(window, examples, scores_BT)
        parent = line.version(self.states.learned[-1]) if self.states.learned else ""
        ids = self._trainer.learn(das.grid.window(window), examples, scores_BT)
        table, item = das.snapshots(), f"snapshots/{line.part}/{window}"
        self.states.learned.append(window)
        if table.state().revision(item):  # another process was faster, and its state may be in use
            return
        weights = [of for of in self._trainer.learner.teacher_weights if of.window == window]
        inputs = {name: getattr(self.state, name).version for name in ("impressions", "labels", "examples")}
        row = {
            "model": line.name, "line": line.digest, "version": line.version(window), "parent": parent,
            "folder": line.folder("", window).lstrip("/"), "digest": self._trainer.keep(window),
            "inputs": json.dumps(inputs),
            "ids": json.dumps({table: of_table.to_dict() for table, of_table in ids.items()}),
            "teacher_weights": json.dumps([weight.to_dict() for weight in weights]),
            "known_until": self.states.known_until(window),
        }  # fmt: skip
        file = stage(table, pl.DataFrame([row], schema=dict(table.columns)), window=window, part=line.part)
        if commit(table, [file], item=item, inputs=inputs):
            yield ("learn", window)

    def _begun(self) -> LineTrainer:
        trainer = LineTrainer(self.line, self.state.das.root, self._crew)
        if self.states.learned:
            trainer.go_on(self.states.learned[-1])
            for window, examples, scores_BT in self._history():
                trainer.learner.begin(self.state.das.grid.window(window), examples, scores_BT)
        return trainer

    def _history(self) -> list[tuple[int, Examples, Floats]]:
        """Return the last windows that were learned and are kept, in order of time, as far as a learner looks back."""
        kept, num_taught = self.known(), 0
        found: list[tuple[int, Examples, Floats]] = []
        for window in reversed(self.states.learned) if self.line.teachers else ():
            if window not in kept or (len(found) > HISTORY_WINDOWS and num_taught >= HISTORY_EXAMPLES):
                break
            examples, scores_BT = self.examples(window)
            found.append((window, examples, scores_BT))
            taught = [~np.isnan(pseudo.probabilities_BT).any(axis=1) for pseudo in examples.pseudo.values()]
            num_taught += int(np.all(taught, axis=0).sum())
        return found[::-1]

    def scores_of(self, examples: Examples, scores: pl.DataFrame, columns: list[str]) -> Floats:
        """Return these columns of predictions for examples, [B, T]; 0.5 where there is none."""
        key = self.state.das.rules.key
        joined = pl.DataFrame([examples.keys]).join(scores, on=key, how="left", maintain_order="left")
        scores_BT: Floats = joined.select(pl.col(columns).fill_null(0.5)).to_numpy().astype(np.float32)
        return scores_BT


class FoundationWorker(LineWorker):
    """A foundation model predicts complete windows, which gives pseudo-labels, and learns closed ones."""

    def __init__(self, state: LogState, line: Line, crew: Crew = SOLO) -> None:
        super().__init__(state, line, crew)
        self._teacher = Teacher(line.schema, line.model, self.states, crew)

    def open(self) -> set[int]:
        """Return complete windows without its pseudo-labels."""
        return set(self.state.due_scores(self.line.name))

    def predict(self, window: int) -> bool:
        """Commit its pseudo-labels of a window; return whether this run did it."""
        return score_window(self.state, window, self.line.name, self._teacher)

    def examples(self, window: int) -> tuple[Examples, Floats]:
        """Return impressions with labels, and its pseudo-labels; its own scores where other states made those."""
        das, tasks = self.state.das, list(self.line.schema.tasks())
        examples = examples_of(labelled_rows(self.state, window), self.line.schema)
        table = das.pseudo_labels(self.state.impressions.columns[das.rules.key]).state()
        pseudo = table.read([window], columns=[das.rules.key, SNAPSHOT, *tasks], part=self.line.name)
        snapshot = self.states.for_window(window)
        if set(pseudo[SNAPSHOT]) != {snapshot.version if snapshot else None}:  # of a line with other settings, or null
            return examples, self.predictor(examples, snapshot.folder if snapshot else "")[SCORE]
        return examples, self.scores_of(examples, pseudo, tasks)

    def record(self, window: int, examples: Examples, scores_BT: Floats) -> None:
        """Commit pseudo-labels as predictions, beside those of the reference lines and the labels."""
        snapshot = self.states.for_window(window)
        references = self.predictor.references(examples, snapshot.folder if snapshot else "")
        self.commit_predictions(window, examples, {SCORE: scores_BT, **references})


class VerticalWorker(LineWorker):
    """A vertical model predicts and learns the examples of its domains."""

    def __init__(self, state: LogState, line: Line) -> None:
        super().__init__(state, line)
        self._data = Data(example_table(state), line.schema, domains=line.domains, teachers=line.teachers)

    def open(self) -> set[int]:
        """Return windows with examples, and without its predictions."""
        predictions = self.state.predictions
        return {window for window in self.known() if not predictions.newest_revision(window, part=self.line.part)}

    def predict(self, window: int) -> bool:
        """Commit its predictions of a window; return whether this run did it."""
        snapshot = self.states.for_window(window)
        examples = self._data.read(self.state.das.grid.window(window))
        predictions = self.predictor(examples, snapshot.folder if snapshot else "")
        return self.commit_predictions(window, examples, predictions)

    def examples(self, window: int) -> tuple[Examples, Floats]:
        """Return its examples, and what it predicted of them."""
        das = self.state.das
        examples = self._data.read(das.grid.window(window))
        columns = [f"{SCORE}.{task}" for task in self.line.schema.tasks()]
        table = das.predictions(self.state.impressions.columns[das.rules.key]).state()
        predicted = table.read([window], columns=[das.rules.key, *columns], part=self.line.part)
        return examples, self.scores_of(examples, predicted, columns)

    def record(self, window: int, examples: Examples, scores_BT: Floats) -> None:
        """Do nothing: they were committed by `predict`."""
