"""Sources of predictions on the same examples: reference lines, the foundation model, and the vertical model."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import FiniteFloat

from exfm.config import Config
from exfm.metrics.quality import Quality, normalized_entropy, quality
from exfm.tables.grid import WINDOW
from exfm.training.manifest import BASE_RATE, LOGISTIC

VERTICAL, TRUTH = "vertical", "truth"
"""Sources of predictions: the vertical model; the planted probabilities."""

NUM_BINS = 10
"""Bins of a reliability curve: deciles of the predictions."""


class WindowEntropy(Config):
    """Normalized entropy on one window, by source; None where it is not defined."""

    window: int
    num_examples: int
    """Number of examples with a known label."""
    entropies: dict[str, FiniteFloat | None]


class ReliabilityBin(Config):
    """Examples with similar predictions."""

    num_examples: int
    mean_prediction: FiniteFloat
    positive_share: FiniteFloat
    """Weighted, as the mean prediction is; equal to it if the model is calibrated here."""


class TaskComparison(Config):
    """One task of one vertical model, by source of predictions; all figures are for the same examples."""

    qualities: dict[str, Quality]
    by_window: tuple[WindowEntropy, ...]
    """All windows, also those of the warm-up."""
    reliability: tuple[ReliabilityBin, ...]
    """Bins of the vertical model, in ascending order of predictions; empty: no label is known."""


def foundation(name: str) -> str:
    """Return the source that a foundation model's predictions are of."""
    return f"foundation.{name}"


def compare(
    predictions: pl.DataFrame, task: str, *, foundations: Sequence[str], counted_windows: Collection[int]
) -> TaskComparison:
    """Return the comparison on the counted windows' rows of `VerticalOutputs.predictions`, from the simplest source."""
    counted = predictions.filter(pl.col(WINDOW).is_in(list(counted_windows)))
    known = (BASE_RATE, LOGISTIC, *map(foundation, foundations), VERTICAL, TRUTH)
    sources = [source for source in known if f"{source}.{task}" in predictions.columns]
    return TaskComparison(
        qualities={source: _quality(counted, task, source=source) for source in sources},
        by_window=tuple(
            _window_entropy(predictions.filter(pl.col(WINDOW) == window), task, sources, window=window)
            for window in predictions[WINDOW].unique().sort().to_list()
        ),
        reliability=reliability(counted, task),
    )


def reliability(rows: pl.DataFrame, task: str) -> tuple[ReliabilityBin, ...]:
    """Return the share of positives by the vertical model's prediction, in bins of equally many examples."""
    known = rows.filter(pl.col(f"label.{task}").is_not_nan())
    scores, labels, weights = (_values(known, f"{column}.{task}") for column in (VERTICAL, "label", "weight"))
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


def _window_entropy(rows: pl.DataFrame, task: str, sources: Collection[str], *, window: int) -> WindowEntropy:
    labels, weights = (rows[f"{column}.{task}"].to_numpy() for column in ("label", "weight"))
    return WindowEntropy(
        window=window,
        num_examples=int((~np.isnan(labels)).sum()),
        entropies={
            source: normalized_entropy(rows[f"{source}.{task}"].to_numpy(), labels, weights)
            for source in sources
            if source != TRUTH
        },
    )


def _quality(rows: pl.DataFrame, task: str, *, source: str) -> Quality:
    return quality(*(rows[f"{column}.{task}"].to_numpy() for column in (source, "label", "weight")))


def _values(rows: pl.DataFrame, column: str) -> npt.NDArray[np.float64]:
    return rows[column].to_numpy().astype(np.float64)
