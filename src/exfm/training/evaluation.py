"""Predictions made before training, kept so that quality can be computed for any part of the examples.

A dataset of predictions has, besides impression key and domain, `label.<task>`, `weight.<task>`, `score.<task>` and the
predictions of reference lines, `<reference line>.<task>`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import bootstrap

from exfm.artifact.manifest import Window
from exfm.errors import DataError
from exfm.events.examples import Examples, Floats
from exfm.events.partitions import read_partition, write_partition
from exfm.metrics import Quality, entropy, log_losses, quality
from exfm.schema import Schema
from exfm.training.manifest import BASE_RATE, WINDOW, Excess

SCORE = "score"
"""Begins the names of the columns with the model's own predictions."""

NUM_RESAMPLES = 2_000
"""Of the windows, for an interval."""


@dataclass(frozen=True)
class Overall:
    """What a walk's recorded predictions are worth, by task."""

    own: dict[str, Quality]
    references: dict[str, dict[str, Quality]]
    """By reference line."""
    over_base_rate: dict[str, Excess]


def record_predictions(
    folder: Path, window: Window, *, examples: Examples, predictions: Mapping[str, Floats], schema: Schema
) -> dict[str, Quality]:
    """Write one window's predictions, [B, T] by source, below `folder`; return the quality of the model's own."""
    columns = {"label": examples.labels_BT, "weight": examples.weights_BT, **predictions}
    rows = pl.DataFrame([examples.keys, examples.domains]).with_columns(
        pl.Series(f"{kind}.{label.name}", values_BT[:, task])
        for task, label in enumerate(schema.labels)
        for kind, values_BT in columns.items()
    )
    write_partition(rows, folder, window)
    return quality_of(rows, schema.tasks())


def recorded_predictions(
    folder: Path, window: Window, *, examples: Examples, schema: Schema, sources: Collection[str]
) -> dict[str, Floats]:
    """Return the predictions, [B, T] by source, that were recorded of these examples; NaN for those that came later.

    Raises: DataError if others were recorded too; StorageError if the window's file is missing or damaged.
    """
    key, columns = schema.impression_key, [f"{source}.{task}" for source in sources for task in schema.tasks()]
    recorded = read_partition(folder, window, columns=[key, *columns])
    shown = pl.DataFrame([examples.keys])
    gone = recorded.join(shown, on=key, how="anti")
    if not gone.is_empty():
        raise DataError(
            f"{gone.height} of {recorded.height} impressions that were scored before in window {window.index} are not "
            f"there now (for example {gone[key][0]!r}); go on with the log that was used then, or train from the first "
            "window"
        )
    joined = shown.join(recorded, on=key, how="left", maintain_order="left")
    values = joined.select(pl.col(columns).fill_null(np.nan).cast(pl.Float32)).to_numpy()
    return dict(zip(sources, np.split(values, len(sources), axis=1), strict=True))


def quality_of(predictions: pl.DataFrame, tasks: Sequence[str], *, source: str = SCORE) -> dict[str, Quality]:
    """Return the quality of a source's recorded predictions, by task."""
    return {
        task: quality(*(predictions[f"{kind}.{task}"].to_numpy() for kind in (source, "label", "weight")))
        for task in tasks
    }


def read_predictions(folder: Path, windows: Sequence[Window]) -> pl.DataFrame:
    """Return the predictions of these windows, whose indices are in column WINDOW.

    Raises: StorageError if a window's file is missing or damaged.
    """
    return pl.concat(
        [read_partition(folder, window).with_columns(pl.lit(window.index).alias(WINDOW)) for window in windows]
    )


def overall(
    folder: Path, windows: Sequence[Window], *, schema: Schema, warmup_windows: int, references: Collection[str]
) -> Overall:
    """Return the qualities over all windows after the first `warmup_windows`; none counted gives no figure."""
    tasks, counted = schema.tasks(), windows[warmup_windows:]
    if not counted:
        none = {task: Quality(num_examples=0) for task in tasks}
        return Overall(none, dict.fromkeys(references, none), {})
    rows = read_predictions(folder, counted)
    return Overall(
        own=quality_of(rows, tasks),
        references={line: quality_of(rows, tasks, source=line) for line in references},
        over_base_rate={
            task: excess
            for task in tasks
            if BASE_RATE in references and (excess := over_line(rows, task, line=BASE_RATE))
        },
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
