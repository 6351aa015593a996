"""How often requests access each row of a table, and how skewed these accesses are."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from exfm.artifact.rows import Rows
from exfm.planning.statistics import HotRows

Weights = npt.NDArray[np.float64]

MAX_HOTTEST_ROWS = 2**20
"""Maximum number of ranked rows of a table: a list of 4 MiB, and more rows than a hot slice is worth."""

MERGE_ROWS = 2**20
"""Rows that are collected before they are merged with the counts so far."""


class RowCounts:
    """Counts of accessed rows; their memory grows with the distinct rows, not with the table."""

    def __init__(self) -> None:
        self._parts: list[tuple[Rows, Weights]] = []
        self._num_waiting = 0

    def add(self, rows: Rows) -> None:
        """Add the occurrences of each row."""
        distinct, counts = np.unique(rows, return_counts=True)
        self._parts.append((distinct, counts.astype(np.float64)))
        self._num_waiting += len(distinct)
        if self._num_waiting > max(MERGE_ROWS, len(self._parts[0][0])):
            self.merged()

    def merged(self) -> tuple[Rows, Weights]:
        """Return the accessed rows in ascending order, and the count of each."""
        merged = sum_by_row(self._parts)
        self._parts, self._num_waiting = [merged], 0
        return merged


def sum_by_row(parts: Sequence[tuple[Rows, Weights]]) -> tuple[Rows, Weights]:
    """Return the distinct rows of all parts in ascending order, and the sum of the weights of each."""
    rows = np.concatenate([np.empty(0, dtype=np.int64), *(rows for rows, _ in parts)])
    weights = np.concatenate([np.empty(0, dtype=np.float64), *(weights for _, weights in parts)])
    order = np.argsort(rows, kind="stable")
    rows, weights = rows[order], weights[order]
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    return rows[starts], np.add.reduceat(weights, starts) if len(starts) else weights


def ranked(rows: Rows, weights: Weights) -> Rows:
    """Return rows by descending weight, then by number; at most MAX_HOTTEST_ROWS."""
    return rows[np.lexsort((rows, -weights))][:MAX_HOTTEST_ROWS]


def skew_of(hottest: Rows, rows: Rows, weights: Weights) -> tuple[HotRows, ...]:
    """Return the share of all weight that the first rows of a ranking have, for numbers of rows that grow by √2.

    `rows` must be in ascending order. Without any weight, or without a ranking, there are no points.
    """
    total = float(weights.sum())
    if not total or not len(hottest):
        return ()
    places = np.minimum(np.searchsorted(rows, hottest), len(rows) - 1)
    found = np.where(rows[places] == hottest, weights[places], 0.0)
    masses = np.minimum(np.cumsum(found) / total, 1.0)
    half_octaves = np.rint(2.0 ** (np.arange(2 * np.log2(len(hottest)) + 1) / 2)).astype(np.int64)
    points = np.unique(np.append(half_octaves[half_octaves < len(hottest)], len(hottest)))
    return tuple(HotRows(num_rows=int(num_rows), mass=float(masses[num_rows - 1])) for num_rows in points)
