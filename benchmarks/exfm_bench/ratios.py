"""How one variant compares with another over interleaved blocks, and whether a target is met.

Values come by start of the servers: those of one start are alike, as where their memory lies is a start's chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binom, sem, t

CONFIDENCE = 0.95

MAX_HALF_WIDTH, MAX_OWN_HALF_WIDTH = 0.01, 0.02
"""Half widths above which an interval resolves no target: that of the ratio of two servers of the same kind (A/A), and
that of the target's own ratio."""

Verdict = Literal["met", "not met", "not resolved"]


@dataclass(frozen=True)
class Interval:
    """A figure, and where the true one lies with 95 % confidence."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Return half of its width."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        """Return it as tables show it."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def median_of(starts: Sequence[Sequence[float]]) -> Interval:
    """Return the mean over starts of each start's median, with Student's interval.

    One start has no such interval, so it gets that of its median: the narrowest between two of its values that is
    symmetric in ranks and holds the median of independent values with CONFIDENCE (of 25 values, the 8th to the 18th).
    It says nothing about other starts. Fewer than six values have no such interval; theirs is without bounds.
    """
    medians = [float(np.median(start)) for start in starts]
    if len(starts) > 1:
        mean, half_width = float(np.mean(medians)), float(t.ppf((1 + CONFIDENCE) / 2, len(starts) - 1) * sem(medians))
        return Interval(mean, mean - half_width, mean + half_width)
    [median], ordered = medians, np.sort(starts[0])
    rank = int(binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5))  # values that may be left out at either end
    if binom.cdf(rank, len(ordered), 0.5) > (1 - CONFIDENCE) / 2:
        rank -= 1
    if rank < 0:
        return Interval(median, -np.inf, np.inf)
    return Interval(median, float(ordered[rank]), float(ordered[-1 - rank]))


def ratio_of(starts: Sequence[Sequence[float]], to: Sequence[Sequence[float]]) -> Interval:
    """Return the median of one variant's value over the other's in the same block, as `median_of`."""
    return median_of(
        [
            [value / of_other for value, of_other in zip(start, of_others, strict=True)]
            for start, of_others in zip(starts, to, strict=True)
        ]
    )


def judge(ratio: Interval, most: float, *, of_same: Interval) -> Verdict:
    """Return whether a ratio is at most so high; `of_same` is that of two servers of the same kind, in the same run."""
    if ratio.low > most:
        return "not met"
    is_known = of_same.half_width <= MAX_HALF_WIDTH and ratio.half_width <= MAX_OWN_HALF_WIDTH
    return "met" if is_known else "not resolved"


def at_most(found: Interval, most: float) -> Verdict:
    """Return whether a figure is at most so high: all of its interval is."""
    if found.high <= most:
        return "met"
    return "not met" if found.low > most else "not resolved"
