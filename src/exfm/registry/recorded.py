"""The newest predictions that a model recorded before it learned them: a later version is compared with them."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from exfm.artifact.manifest import Window
from exfm.events.partitions import read_partition
from exfm.training.manifest import PREDICTIONS, ModelManifest

MIN_POSITIVES = 100
"""Positives of each task that a judgement needs: with fewer, chance moves calibration by a tenth."""


def learned_windows(model: ModelManifest) -> tuple[Window, ...]:
    """Return the windows that a model was tested on and then learned, in order of time; all their labels were known."""
    tested = {quality.window for quality in model.qualities}
    last = model.snapshots[-1].window
    return tuple(window for window in model.windows if window.index in tested and window.index <= last)


def learned_until(model: ModelManifest) -> int:
    """Return the end of the last window that a model learned, in event time."""
    return next(window.end for window in model.windows if window.index == model.snapshots[-1].window)


def newest_recorded(folder: Path, model: ModelManifest) -> pl.DataFrame:
    """Return the predictions of the newest learned windows that together have MIN_POSITIVES of each task.

    If all windows have fewer, return all. Windows of the warm-up are left out.
    """
    parts: list[pl.DataFrame] = []
    for window in reversed(learned_windows(model)[model.training.warmup_windows :]):
        parts.insert(0, read_partition(folder / PREDICTIONS, window))
        if all(positives(parts, task) >= MIN_POSITIVES for task in model.feature_schema.tasks()):
            break
    return pl.concat(parts) if parts else pl.DataFrame()


def positives(parts: Sequence[pl.DataFrame], task: str) -> int:
    """Return how many examples have a positive label."""
    return sum(int((part[f"label.{task}"].fill_nan(0) > 0).sum()) for part in parts)
