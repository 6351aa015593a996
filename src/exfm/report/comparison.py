"""Three models on the same examples: the foundation model, the label-only vertical model, and the distilled one."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import FiniteFloat

from exfm.config import Config
from exfm.metrics import Quality, quality
from exfm.report.outputs import WINDOW

NUM_BINS = 10
"""Bins of a reliability curve: deciles of the predictions."""


class WindowEntropy(Config):
    """Normalized entropy on one window; None: it is not defined."""

    window: int
    num_examples: int
    """Number of examples with a known label."""
    foundation: FiniteFloat | None
    label_only: FiniteFloat | None
    distilled: FiniteFloat | None


class ReliabilityBin(Config):
    """Examples with similar predictions."""

    num_examples: int
    mean_prediction: FiniteFloat
    positive_share: FiniteFloat
    """Weighted, as the mean prediction is; equal to it if the model is calibrated here."""


class TaskComparison(Config):
    """One task of one vertical model; all figures are for the same examples."""

    foundation: Quality
    """The foundation model's own predictions."""
    label_only: Quality | None
    """The same model, trained without a teacher; None: none was trained."""
    distilled: Quality
    truth: Quality | None
    """The planted probabilities, which no model can beat; None: they are not known."""
    change_percent: FiniteFloat | None
    """Change of normalized entropy, distilled against label-only; below 0 is better."""
    by_window: tuple[WindowEntropy, ...]
    """All windows, also those of the warm-up."""
    reliability_label_only: tuple[ReliabilityBin, ...]
    """Bins in ascending order of predictions; empty: there is no label-only model, or no label is known."""
    reliability_distilled: tuple[ReliabilityBin, ...]


def compare(predictions: pl.DataFrame, task: str, *, counted_windows: Collection[int]) -> TaskComparison:
    """Return the comparison on the counted windows' rows of `VerticalOutputs.predictions`."""
    counted = predictions.filter(pl.col(WINDOW).is_in(list(counted_windows)))
    label_only = _quality(counted, task, source="label_only")
    distilled = _require_quality(counted, task, source="distilled")
    return TaskComparison(
        foundation=_require_quality(counted, task, source="foundation"),
        label_only=label_only,
        distilled=distilled,
        truth=_quality(counted, task, source="truth"),
        change_percent=_change_percent(label_only, distilled),
        by_window=tuple(
            _window_entropy(predictions.filter(pl.col(WINDOW) == window), task, window=window)
            for window in predictions[WINDOW].unique().sort().to_list()
        ),
        reliability_label_only=reliability(counted, task, source="label_only") if label_only else (),
        reliability_distilled=reliability(counted, task, source="distilled"),
    )


def reliability(rows: pl.DataFrame, task: str, *, source: str) -> tuple[ReliabilityBin, ...]:
    """Return the share of positives by prediction, in bins of equally many examples from low to high."""
    known = rows.filter(pl.col(f"label.{task}").is_not_nan())
    scores, labels, weights = (_values(known, f"{column}.{task}") for column in (source, "label", "weight"))
    order = np.argsort(scores, kind="stable")
    return tuple(
        ReliabilityBin(
            num_examples=len(part),
            mean_prediction=float(np.average(scores[part], weights=weights[part])),
            positive_share=float(np.average(labels[part], weights=weights[part])),
        )
        for part in np.array_split(order, NUM_BINS)
        if len(part)
    )


def _window_entropy(rows: pl.DataFrame, task: str, *, window: int) -> WindowEntropy:
    label_only = _quality(rows, task, source="label_only")
    distilled = _require_quality(rows, task, source="distilled")
    return WindowEntropy(
        window=window,
        num_examples=distilled.num_examples,
        foundation=_require_quality(rows, task, source="foundation").normalized_entropy,
        label_only=label_only.normalized_entropy if label_only else None,
        distilled=distilled.normalized_entropy,
    )


def _require_quality(rows: pl.DataFrame, task: str, *, source: str) -> Quality:
    return quality(*(rows[f"{column}.{task}"].to_numpy() for column in (source, "label", "weight")))


def _quality(rows: pl.DataFrame, task: str, *, source: str) -> Quality | None:
    return _require_quality(rows, task, source=source) if f"{source}.{task}" in rows.columns else None


def _change_percent(label_only: Quality | None, distilled: Quality) -> float | None:
    if label_only is None or not label_only.normalized_entropy or distilled.normalized_entropy is None:
        return None
    return 100 * (distilled.normalized_entropy / label_only.normalized_entropy - 1)


def _values(rows: pl.DataFrame, column: str) -> npt.NDArray[np.float64]:
    return rows[column].to_numpy().astype(np.float64)
