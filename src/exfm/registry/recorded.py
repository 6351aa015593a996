"""The newest predictions that a model recorded before it learned them: a later version is compared with them."""

from collections.abc import Sequence

import polars as pl

from exfm.training.evaluation import predictions_of
from exfm.training.manifest import ModelManifest

MIN_POSITIVES = 100
"""Positives of each task that a judgement needs: with fewer, chance moves calibration by a tenth."""


def newest_recorded(model: ModelManifest) -> pl.DataFrame:
    """Return the predictions of the newest learned windows that together have MIN_POSITIVES of each task.

    If all windows have fewer, return all. Windows of the warm-up are left out.

    Raises: StorageError if predictions cannot be read.
    """
    parts: list[pl.DataFrame] = []
    for window in reversed(model.counted):
        parts.insert(0, predictions_of(model, [window]))
        if all(positives(parts, task) >= MIN_POSITIVES for task in model.feature_schema.tasks()):
            break
    return pl.concat(parts) if parts else pl.DataFrame()


def positives(parts: Sequence[pl.DataFrame], task: str) -> int:
    """Return how many examples have a positive label."""
    return sum(int((part[f"label.{task}"].fill_nan(0) > 0).sum()) for part in parts)
