"""Predictions made before training, kept so that quality can be computed for any part of the examples.

A dataset of predictions has, besides impression key and domain, `label.<task>`, `weight.<task>` and `score.<task>`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from exfm.artifact.manifest import Window
from exfm.errors import DataError
from exfm.events.examples import Examples, Floats
from exfm.events.partitions import read_partition, write_partition
from exfm.metrics import Quality, quality
from exfm.schema import Schema, score_column
from exfm.training.manifest import WindowQuality


def record_predictions(
    folder: Path, window: Window, *, examples: Examples, scores_BT: Floats, schema: Schema
) -> WindowQuality:
    """Write one window's predictions below `folder`, and return their quality."""
    predictions = pl.DataFrame([examples.keys, examples.domains]).with_columns(
        pl.Series(f"{kind}.{label.name}", values_BT[:, task])
        for task, label in enumerate(schema.labels)
        for kind, values_BT in (
            ("label", examples.labels_BT), ("weight", examples.weights_BT), ("score", scores_BT),
        )
    )  # fmt: skip
    write_partition(predictions, folder, window)
    return WindowQuality(window=window.index, tasks=quality_of(predictions, schema.tasks()))


def recorded_scores(folder: Path, window: Window, *, examples: Examples, schema: Schema) -> Floats:
    """Return the scores, [B, T], that were recorded of these examples; NaN for those that came later.

    Raises: DataError if others were recorded too; StorageError if the window's file is missing or damaged.
    """
    key, columns = schema.impression_key, [score_column(task) for task in schema.tasks()]
    recorded = read_partition(folder, window, columns=[key, *columns])
    shown = pl.DataFrame([examples.keys])
    gone = recorded.join(shown, on=key, how="anti")
    if not gone.is_empty():
        raise DataError(
            f"{gone.height} of {recorded.height} impressions that were scored before in window {window.index} are not "
            f"there now (for example {gone[key][0]!r}); go on with the log that was used then, or train from the first "
            "window"
        )
    scores = shown.join(recorded, on=key, how="left", maintain_order="left")
    return scores.select(pl.col(columns).fill_null(np.nan).cast(pl.Float32)).to_numpy()


def quality_of(predictions: pl.DataFrame, tasks: Sequence[str]) -> dict[str, Quality]:
    """Return the quality of recorded predictions, by task."""
    return {
        task: quality(*(predictions[f"{kind}.{task}"].to_numpy() for kind in ("score", "label", "weight")))
        for task in tasks
    }


def read_predictions(folder: Path, windows: Sequence[Window]) -> pl.DataFrame:
    """Return the predictions of these windows.

    Raises: StorageError if a window's file is missing or damaged.
    """
    return pl.concat([read_partition(folder, window) for window in windows])


def overall_quality(
    folder: Path, windows: Sequence[Window], *, schema: Schema, warmup_windows: int
) -> dict[str, Quality]:
    """Return the quality over all windows after the first `warmup_windows`, by task; none counted gives no figure."""
    tasks = schema.tasks()
    if len(windows) <= warmup_windows:
        return {task: Quality(num_examples=0) for task in tasks}
    return quality_of(read_predictions(folder, windows[warmup_windows:]), tasks)
