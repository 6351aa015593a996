"""Predictions made before training, kept so that quality can be told for any part of the examples.

A dataset of predictions has, besides impression key and domain, `label.<task>`, `weight.<task>` and `score.<task>`.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from exfm.artifact.manifest import Window
from exfm.events.examples import Examples, Floats
from exfm.events.partitions import read_partition, write_partition
from exfm.metrics import Quality, quality
from exfm.schema import Schema
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
