"""How one way of serving compares with another over interleaved blocks, and whether a target is met."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binom

CONFIDENCE = 0.95

MAX_HALF_WIDTH = 0.01
"""Of the interval of a server's ratio to another of the same kind: what is wider resolves no target."""

Verdict = Literal["met", "not met", "not resolved"]


@dataclass(frozen=True)
class Interval:
    """A median of blocks, and where the true one lies with 95 % confidence."""

    median: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Return half of its width."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        """Return it as tables show it."""
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def median_of(values: Sequence[float]) -> Interval:
    """Return the median of independent values, of any distribution, with the interval between two of them.

    It is the narrowest that is symmetric in ranks and holds the median with CONFIDENCE: of 25 values from the 8th to
    the 18th. Of less than six there is none, and the interval is without bounds.
    """
    ordered = np.sort(values)
    median = float(np.median(ordered))
    rank = int(binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5))  # values that may be left out at either end
    if binom.cdf(rank, len(ordered), 0.5) > (1 - CONFIDENCE) / 2:
        rank -= 1
    if rank < 0:
        return Interval(median, -np.inf, np.inf)
    return Interval(median, float(ordered[rank]), float(ordered[-1 - rank]))


def ratio_of(values: Sequence[float], to: Sequence[float]) -> Interval:
    """Return the median over blocks of one way's value over the other's in the same block."""
    return median_of([value / of_other for value, of_other in zip(values, to, strict=True)])


def judge(ratio: Interval, most: float, *, of_same: Interval) -> Verdict:
    """Return whether a ratio is at most so high; `of_same` is that of two servers of the same kind, in the same run."""
    if ratio.low > most:
        return "not met"
    return "met" if of_same.half_width <= MAX_HALF_WIDTH else "not resolved"
