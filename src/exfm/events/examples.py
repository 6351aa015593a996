"""Examples of one window as tensors: features encoded, labels, pseudo-labels and weights beside them.

Legend: B examples, T tasks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from exfm.artifact.manifest import Manifest, Window
from exfm.artifact.storage import Ref
from exfm.errors import DataError, StorageError
from exfm.events.partitions import join_rows, partition, read_partition
from exfm.features.batch import NetBatches, encode_examples
from exfm.features.table import raw_columns, require_column
from exfm.schema import Schema, WrittenSchema, pseudo_age_column, pseudo_label_column

Floats = npt.NDArray[np.float32]


class ExamplesManifest(Manifest):
    """A dataset of examples; exfm.das makes it, every vertical model reads it."""

    kind: Literal["examples"] = "examples"
    feature_schema: WrittenSchema
    known_until: int
    """End of what the labels saw, in event time."""
    fm_snapshots: dict[str, str]
    """Newest snapshot that made pseudo-labels, by foundation model; empty: none was ready."""
    num_examples: int

    def pseudo_labels_of(self, fm: str) -> Ref:
        """Return the pseudo-labels of a foundation model that these examples have.

        Raises: StorageError if they have none of it.
        """
        if fm not in self.fm_snapshots:
            raise StorageError(
                f"the examples have no pseudo-labels of {fm!r}, but those of {', '.join(self.fm_snapshots)}; name one "
                "of these, or join the examples again"
            )
        return self.inputs[pseudo_labels_input(fm)]

    def headline(self) -> str:
        """Return one line about this stage's output."""
        fms = ", ".join(self.fm_snapshots)
        return f"{self.num_examples:,} examples in {len(self.windows)} windows, pseudo-labels of {fms}"


def pseudo_labels_input(fm: str) -> str:
    """Return the name of a foundation model's pseudo-labels among the inputs of examples."""
    return f"pseudo_labels of {fm}"


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

    def minibatches(self, size: int) -> Iterator["Examples"]:
        """Yield these examples `size` at a time, in order; the last may be shorter."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield Examples(
                keys=self.keys[start:stop],
                domains=self.domains[start:stop],
                batches=self.batches.rows(start, stop),
                labels_BT=self.labels_BT[start:stop],
                pseudo={teacher: pseudo.rows(start, stop) for teacher, pseudo in self.pseudo.items()},
                weights_BT=self.weights_BT[start:stop],
            )


def label_column(task: str) -> str:
    """Return the examples' column that holds a task's label."""
    return f"label.{task}"


def read_frame(datasets: Sequence[Path], window: Window, schema: Schema) -> pl.DataFrame:
    """Return one window's rows of the first dataset, with the columns of the others joined by impression key.

    Raises: StorageError if a partition is missing or damaged; DataError if another dataset does not have exactly one
    row for an impression.
    """
    frame = read_partition(datasets[0], window)
    for dataset in datasets[1:]:
        frame = join_rows(
            frame,
            read_partition(dataset, window),
            key=schema.impression_key,
            of=partition(dataset, window),
            onto=str(partition(datasets[0], window)),
        )
    return frame


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
