"""Examples of one window as tensors: features encoded, labels, pseudo-labels and weights beside them.

Legend: B examples, T tasks.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from exfm.artifact.manifest import Window
from exfm.errors import DataError
from exfm.features.batch import NetBatches, encode_examples
from exfm.features.table import raw_columns, require_column
from exfm.schema import Schema, pseudo_age_column, pseudo_label_column, pseudo_snapshot_column
from exfm.tables.grid import WINDOW, WindowGrid
from exfm.tables.reference import TableRef
from exfm.tables.table import TableState

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExampleTable:
    """One version of the table of examples: a row for each impression, with its labels and pseudo-labels."""

    state: TableState
    schema: Schema
    """Of the log, or a part of it: columns that readers name may be missing in it."""
    window_length: int
    """In the schema's time unit."""

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """Return the windows that have examples, in order of time."""
        grid = WindowGrid(self.window_length)
        return tuple(map(grid.window, sorted(self.state.files)))

    @property
    def ref(self) -> TableRef:
        """Return the reference to this version."""
        return TableRef(table=self.state.uri, version=self.state.version)

    @property
    def columns(self) -> Collection[str]:
        """Return the names of its columns."""
        return self.state.columns.keys()

    def num_examples(self) -> int:
        """Return the number of examples, without reading a file."""
        return self.state.num_rows(self.state.files)

    def num_of(self, window: Window, *, domains: Sequence[str] = ()) -> int:
        """Return a window's number of examples of these domains (none named: all, and no file is read).

        Raises: as `read` does.
        """
        if not domains:
            return self.state.num_rows([window.index])
        column = self.schema.domain
        return self.state.read_where(window.index, column, domains, columns=[column]).height

    def has_pseudo_labels(self, foundation_model: str) -> bool:
        """Return whether an example has a pseudo-label of a foundation model.

        Raises: as `read` does.
        """
        column = pseudo_age_column(foundation_model)
        if column not in self.columns:
            return False
        ages = self.state.read(self.state.files, columns=[column])[column]
        return ages.null_count() < len(ages)

    def snapshot_of(self, foundation_model: str, window: int) -> str:
        """Return the version that made a foundation model's pseudo-labels of a window, by its index; empty: none did.

        Raises: as `read` does.
        """
        column = pseudo_snapshot_column(foundation_model)
        versions = self.state.read([window], columns=[column])[column]
        return next(iter(versions.drop_nulls()), "")

    def read(self, window: Window, *, domains: Sequence[str] = (), columns: Sequence[str] = ()) -> pl.DataFrame:
        """Return a window's examples of these domains (none named: all), in order of event time, then of key.

        Of columns (none named: all) only these leave the store, and of row groups those with one of the domains. Event
        time is in the schema's unit.

        Raises: StorageError if a file is missing or damaged, or the store does not answer.
        """
        time, key = self.schema.event_time.column, self.schema.impression_key
        names = list(columns) or [name for name in self.state.columns if name != WINDOW]
        wanted = list(dict.fromkeys([*names, time, key]))
        if domains:
            rows = self.state.read_where(window.index, self.schema.domain, domains, columns=wanted)
        else:
            rows = self.state.read([window.index], columns=wanted)
        if rows.schema[time].is_temporal():
            rows = rows.with_columns(pl.col(time).dt.epoch("s"))
        return rows.sort(time, key).select(names)


@dataclass(frozen=True)
class PseudoLabels:
    """What a foundation model says of examples."""

    probabilities_BT: Floats
    """NaN where it had none."""
    ages_B: npt.NDArray[np.float64]
    """Event time between what its snapshot last knew and the impression; NaN where it had none."""

    def rows(self, start: int, stop: int) -> "PseudoLabels":
        """Return those of examples `start` to `stop`."""
        return PseudoLabels(probabilities_BT=self.probabilities_BT[start:stop], ages_B=self.ages_B[start:stop])


@dataclass(frozen=True)
class Examples:
    """Examples in order of event time."""

    keys: pl.Series
    """Keys of the impressions; length B."""
    domains: pl.Series
    """Length B."""
    batches: NetBatches
    labels_BT: Floats
    """0 or 1; NaN where the attribution window was not over when labels were made."""
    pseudo: Mapping[str, PseudoLabels]
    """By foundation model."""
    weights_BT: Floats
    """The example's weight, and for a negative of a sampled log its share of those that were dropped."""

    def __len__(self) -> int:
        """Return B."""
        return len(self.labels_BT)

    def rows(self, start: int, stop: int) -> "Examples":
        """Return examples `start` to `stop`, without copying a key."""
        return Examples(
            keys=self.keys[start:stop],
            domains=self.domains[start:stop],
            batches=self.batches.rows(start, stop),
            labels_BT=self.labels_BT[start:stop],
            pseudo={teacher: pseudo.rows(start, stop) for teacher, pseudo in self.pseudo.items()},
            weights_BT=self.weights_BT[start:stop],
        )

    def minibatches(self, size: int) -> Iterator["Examples"]:
        """Yield these examples `size` at a time, in order; the last may be shorter."""
        for start in range(0, len(self), size):
            yield self.rows(start, min(start + size, len(self)))


def label_column(task: str) -> str:
    """Return the examples' column that holds a task's label."""
    return f"label.{task}"


def examples_of(frame: pl.DataFrame, schema: Schema, *, teachers: Sequence[str] = ()) -> Examples:
    """Return a frame's rows as tensors, with the pseudo-labels of these foundation models.

    Raises: DataError if a column is missing or of a wrong type, or if a label is neither 0 nor 1.
    """
    table = frame.to_arrow()
    labels_BT = labels_of(frame, schema)
    return Examples(
        keys=frame[schema.impression_key],
        domains=frame[schema.domain],
        batches=encode_examples(raw_columns(table, schema), schema),
        labels_BT=labels_BT,
        pseudo={teacher: _pseudo_labels(frame, schema, teacher) for teacher in teachers},
        weights_BT=weights_of(frame, schema, labels_BT),
    )


def labels_of(frame: pl.DataFrame, schema: Schema) -> Floats:
    """Return the labels of a frame's rows by task; NaN where one is not known.

    Raises: DataError if a column is missing, or if a label is neither 0 nor 1.
    """
    labels_BT = _columns(frame, [label_column(task) for task in schema.tasks()])
    wrong_BT = ~np.isnan(labels_BT) & (labels_BT != 0) & (labels_BT != 1)
    if wrong_BT.any():
        row, task = (int(at[0]) for at in wrong_BT.nonzero())
        raise DataError(
            f"column {label_column(schema.tasks()[task])!r} is {labels_BT[row, task]:g} for impression "
            f"{frame[schema.impression_key][row]!r}, expected 0, 1, or null while it is not known; make the labels "
            "again, or correct the column"
        )
    return labels_BT


def _pseudo_labels(frame: pl.DataFrame, schema: Schema, teacher: str) -> PseudoLabels:
    probabilities_BT = _columns(frame, [pseudo_label_column(teacher, task) for task in schema.tasks()])
    age = pseudo_age_column(teacher)
    require_column(frame.columns, age)
    return PseudoLabels(
        probabilities_BT=probabilities_BT, ages_B=frame[age].cast(pl.Float64).fill_null(np.nan).to_numpy()
    )


def weights_of(frame: pl.DataFrame, schema: Schema, labels_BT: Floats) -> Floats:
    """Return the weights of a frame's rows by task, with which models learn and are judged.

    Raises: DataError if a column is missing.
    """
    weights_BT = np.ones_like(labels_BT)
    if schema.weight:
        weights_BT *= _columns(frame, [schema.weight])
    if schema.negative_sampling_rate:  # so that predictions are calibrated on the log before sampling
        weights_BT /= np.where(labels_BT == 0, _columns(frame, [schema.negative_sampling_rate]), np.float32(1))
    return weights_BT


def _columns(frame: pl.DataFrame, names: Sequence[str]) -> Floats:
    for name in names:
        require_column(frame.columns, name)
    return frame.select(pl.col(names).cast(pl.Float32).fill_null(np.nan)).to_numpy()
