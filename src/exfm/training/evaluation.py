"""Predictions made before training, kept so that quality can be computed for any part of the examples.

The table of predictions has, besides impression key and domain, `label.<task>`, `weight.<task>`, `score.<task>` and the
predictions of reference lines, `<reference line>.<task>`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from exfm.artifact.manifest import Window
from exfm.events.examples import Examples, Floats
from exfm.metrics.quality import Quality, entropy, log_losses, quality
from exfm.schema import Schema
from exfm.tables.grid import WINDOW
from exfm.tables.table import TableState
from exfm.training.manifest import BASE_RATE, LOGISTIC, PREDICTIONS, SCORE, Excess, ModelManifest, prediction_columns

NUM_RESAMPLES = 2_000
"""Of the windows, for an interval."""


@dataclass(frozen=True)
class Overall:
    """What predictions are worth, by task."""

    own: dict[str, Quality]
    references: dict[str, dict[str, Quality]]
    """By reference line."""
    over_base_rate: dict[str, Excess]


def prediction_rows(examples: Examples, predictions: Mapping[str, Floats], schema: Schema) -> pl.DataFrame:
    """Return a row for each example, from predictions by source, [B, T]."""
    columns = {"label": examples.labels_BT, "weight": examples.weights_BT, **predictions}
    return pl.DataFrame([examples.keys, examples.domains]).with_columns(
        pl.Series(f"{kind}.{label.name}", values_BT[:, task].astype(np.float32))
        for task, label in enumerate(schema.labels)
        for kind, values_BT in columns.items()
    )


def quality_of(predictions: pl.DataFrame, tasks: Sequence[str], *, source: str = SCORE) -> dict[str, Quality]:
    """Return the quality of a source's recorded predictions, by task."""
    return {
        task: quality(*(predictions[f"{kind}.{task}"].to_numpy() for kind in (source, "label", "weight")))
        for task in tasks
    }


def read_predictions(
    table: TableState, windows: Iterable[int], *, line: str, schema: Schema, columns: Sequence[str] = ()
) -> pl.DataFrame:
    """Return what a line predicted of these windows, with WINDOW; of columns (none named: all) only these are read.

    Raises: StorageError if a file is missing or damaged, or the store does not answer.
    """
    own = [schema.impression_key, schema.domain, *prediction_columns(schema.tasks())]
    return table.read(windows, columns=[*(columns or own), WINDOW], part=line)


def predictions_of(model: ModelManifest, windows: Sequence[Window]) -> pl.DataFrame:
    """Return what a model predicted of these windows before it learned them, with WINDOW.

    Raises: as `read_predictions` does.
    """
    table = model.tables[PREDICTIONS].state()
    return read_predictions(table, [window.index for window in windows], line=model.line, schema=model.feature_schema)


def overall(rows: pl.DataFrame, tasks: Sequence[str]) -> Overall:
    """Return what predictions, with WINDOW, are worth; without rows there is no figure."""
    lines = (BASE_RATE, LOGISTIC)
    if rows.is_empty():
        none = {task: Quality(num_examples=0) for task in tasks}
        return Overall(none, dict.fromkeys(lines, none), {})
    return Overall(
        own=quality_of(rows, tasks),
        references={line: quality_of(rows, tasks, source=line) for line in lines},
        over_base_rate={task: excess for task in tasks if (excess := over_line(rows, task, line=BASE_RATE))},
    )


def over_line(rows: pl.DataFrame, task: str, *, line: str) -> Excess | None:
    """Return how much more NE a model has than a reference line, with an interval from resampled windows.

    None where NE is not defined. Every resample is divided by the entropy of all examples: its own could be 0, with few
    positives.
    """
    known = rows.filter(pl.col(f"label.{task}").is_not_nan() & (pl.col(f"weight.{task}") > 0))
    scores, of_line, labels, weights = (
        known[f"{column}.{task}"].to_numpy() for column in (SCORE, line, "label", "weight")
    )
    if len(set(labels.tolist())) < 2:
        return None
    scale = entropy(float(np.average(labels, weights=weights.astype(np.float64))))
    losses = (log_losses(scores, labels) - log_losses(of_line, labels)) * weights / scale
    sums = pl.DataFrame({WINDOW: known[WINDOW], "loss": losses, "weight": weights.astype(np.float64)})
    by_window = sums.group_by(WINDOW).sum().sort(WINDOW)
    losses_W, weights_W = by_window["loss"].to_numpy(), by_window["weight"].to_numpy()
    mean = float(losses_W.sum() / weights_W.sum())
    if len(weights_W) < 2:
        return Excess(entropy=mean)
    from scipy.stats import bootstrap  # takes half a second, and few who read models resample them

    interval = bootstrap(
        (losses_W, weights_W),
        lambda losses, weights, axis: losses.sum(axis) / weights.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=NUM_RESAMPLES,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Excess(entropy=mean, low=float(interval.low), high=float(interval.high))
