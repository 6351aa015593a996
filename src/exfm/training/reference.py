"""Reference lines: what a model must beat to be worth its cost. The model's own schedule tests and teaches them.

Legend: B examples, C columns of the logistic regression, T tasks.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, hstack
from sklearn.linear_model import SGDClassifier

from exfm.artifact.manifest import Window
from exfm.artifact.rows import Rows, rows_of_keys
from exfm.events.examples import Examples, Floats
from exfm.features.batch import NetBatches
from exfm.schema import NETS, Schema
from exfm.training.base_rate import BaseRate
from exfm.training.ids import SeenIds
from exfm.training.manifest import BASE_RATE, LOGISTIC, TableIds

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

IDS = "ids"
"""Begins the names of the arrays with a table's distinct keys."""

LEARNING_RATE = 0.5
"""Of the regression's first example; that of example t is this over the square root of t."""

MAX_DENSE = 10.0
"""A dense value counts as at most this far from 0: one that is hardly normalised cannot make coefficients overflow."""

MAX_ROWS = 2**20
"""Coefficients of one feature: those of a larger table's rows are shared, so a task's state is 4 MiB a feature."""


class ReferenceLine(Protocol):
    """Predictions that cost next to nothing."""

    def test(self, examples: Examples) -> Floats:
        """Return probabilities, [B, T], by what was learned until now."""

    def learn(self, examples: Examples) -> None:
        """Learn examples once; those with an unknown label (NaN) count as none."""

    def state(self) -> Arrays:
        """Return all that was learned, by name."""

    def restore(self, state: Arrays) -> None:
        """Go on from what `state` gave."""


class Logistic:
    """A logistic regression on a model's inputs: normalised dense features, and a coefficient for each hashed row.

    scikit-learn's SGD learns it in one pass, in order of time. Ids of a bag count as often as they occur, or by their
    share where the feature's table pools by mean. The intercept starts at the first window's label rate.
    """

    def __init__(self, schema: Schema) -> None:
        self._features = [
            (net, feature, min(schema.table(feature.table).rows, MAX_ROWS))
            for net in NETS
            for feature in schema.sparse_of(net)
        ]
        self._mean_pooled = {table.name for table in schema.tables if table.pooling == "mean"}
        num_columns = len(schema.dense) + sum(num_rows for _, _, num_rows in self._features)
        self._models = [_untrained(num_columns) for _ in schema.labels]
        self._last: tuple[Examples, csr_array] | None = None

    def test(self, examples: Examples) -> Floats:
        """Return probabilities; [B, T]."""
        if not len(examples):
            return np.empty((0, len(self._models)), dtype=np.float32)
        inputs_BC = self._inputs_of(examples)
        return np.stack([model.predict_proba(inputs_BC)[:, 1] for model in self._models], axis=1).astype(np.float32)

    def learn(self, examples: Examples) -> None:
        """Take one step for each example, in order."""
        inputs_BC, rates = self._inputs_of(examples), BaseRate.of(examples)
        for task, model in enumerate(self._models):
            counted_B = ~np.isnan(examples.labels_BT[:, task]) & (examples.weights_BT[:, task] > 0)
            if not counted_B.any():
                continue
            labels_B, weights_B = examples.labels_BT[counted_B, task], examples.weights_BT[counted_B, task]
            if model.t_ == 1:
                model.intercept_[:] = rates.logits()[task]
            known_BC = inputs_BC if counted_B.all() else inputs_BC[counted_B]
            model.partial_fit(known_BC, labels_B, sample_weight=weights_B)

    def state(self) -> Arrays:
        """Return coefficients, intercepts and numbers of steps."""
        return {
            "coefficients": np.concatenate([model.coef_ for model in self._models]),
            "intercepts": np.concatenate([model.intercept_ for model in self._models]),
            "steps": np.array([model.t_ for model in self._models]),
        }

    def restore(self, state: Arrays) -> None:
        """Take over coefficients, intercepts and numbers of steps."""
        for task, model in enumerate(self._models):
            model.coef_ = state["coefficients"][task : task + 1].copy()
            model.intercept_ = state["intercepts"][task : task + 1].copy()
            model.t_ = float(state["steps"][task])

    def _inputs_of(self, examples: Examples) -> csr_array:
        """Return the inputs; those of the examples that were asked for last are kept, as learning follows testing."""
        if self._last is None or self._last[0] is not examples:
            self._last = (examples, self._inputs(examples.batches))
        return self._last[1]

    def _inputs(self, batches: NetBatches) -> csr_array:
        """Return the features side by side; float32 [B, C]."""
        dense_BD = np.concatenate([batches.of(net).dense_BD for net in NETS], axis=1).clip(-MAX_DENSE, MAX_DENSE)
        num_rows, num_dense = dense_BD.shape
        columns = np.tile(np.arange(num_dense), num_rows)
        parts = [_csr(dense_BD.ravel(), columns, np.arange(num_rows + 1) * num_dense, num_columns=num_dense)]
        for net, feature, num_columns in self._features:
            bags = batches.of(net).bags[feature.name]
            values = np.ones(len(bags.keys), dtype=np.float32)
            if feature.table in self._mean_pooled:
                values /= np.repeat(bags.lengths, bags.lengths)
            parts.append(_csr(values, rows_of_keys(bags.keys, num_columns), bags.offsets, num_columns=num_columns))
        return hstack(parts, format="csr")


def _csr(values: Floats, columns: Rows, offsets: Rows, *, num_columns: int) -> csr_array:
    """Return a sparse matrix with 32-bit positions, which scikit-learn's SGD wants."""
    positions = (columns.astype(np.int32), offsets.astype(np.int32))
    return csr_array((values, *positions), shape=(len(offsets) - 1, num_columns))


def reference_lines(schema: Schema) -> dict[str, ReferenceLine]:
    """Return the lines of a model with this schema, by name; they have learned nothing."""
    return {BASE_RATE: BaseRate(len(schema.labels)), LOGISTIC: Logistic(schema)}


class References:
    """What is tested and learned beside a model on the same schedule: reference lines, and the ids of its tables."""

    def __init__(self, schema: Schema) -> None:
        """Begin those of a model with this schema; they have learned nothing."""
        self.lines = reference_lines(schema)
        self._ids = SeenIds(schema)

    def test(self, examples: Examples) -> dict[str, Floats]:
        """Return the predictions of each line, [B, T], by what was learned until now."""
        return {name: line.test(examples) for name, line in self.lines.items()}

    def add_ids(self, window: Window, examples: Examples) -> dict[str, TableIds]:
        """Take the ids of a window, and return each table's figures."""
        return self._ids.add(window, examples.batches)

    def learn(self, window: Window, examples: Examples) -> None:
        """Learn a window's examples once."""
        for line in self.lines.values():
            line.learn(examples)
        self._ids.note_learned(window)

    def state(self) -> dict[str, Array]:
        """Return what was learned, as of the last learned window, by name."""
        return {f"{part}.{name}": array for part, held in self._parts() for name, array in held.state().items()}

    def restore(self, state: Arrays) -> None:
        """Go on from what `state` gave."""
        for part, held in self._parts():
            begin = f"{part}."
            held.restore({name.removeprefix(begin): array for name, array in state.items() if name.startswith(begin)})

    def _parts(self) -> list[tuple[str, ReferenceLine | SeenIds]]:
        return [*self.lines.items(), (IDS, self._ids)]


def _untrained(num_columns: int) -> SGDClassifier:
    """Return a regression that may predict before it has learned, and learns from one class alone."""
    model = SGDClassifier(
        loss="log_loss",
        penalty=None,
        learning_rate="invscaling",
        eta0=LEARNING_RATE,
        power_t=0.5,
        shuffle=False,
        random_state=0,
    )
    model.classes_ = np.array([0.0, 1.0], dtype=np.float32)
    model.coef_ = np.zeros((1, num_columns), dtype=np.float32)
    model.intercept_ = np.zeros(1, dtype=np.float32)
    model.t_ = 1.0
    return model
