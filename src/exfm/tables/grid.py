"""The grid of windows: spans of event time of one length, anchored at time 0.

A log that drops its oldest day keeps its windows. Times are ticks: microseconds since 1970-01-01 UTC, or steps of
ordinal time.
"""

from dataclasses import dataclass

import polars as pl

from exfm.artifact.manifest import Window

WINDOW = "window"
"""The column by which each table is partitioned: a window's index on the grid."""

NO_WINDOW = -(2**62)
"""The index of rows whose event time is impossible."""


@dataclass(frozen=True)
class WindowGrid:
    """Windows [index * length, (index + 1) * length)."""

    length: int
    """Ticks of one window; at least 1."""

    def window(self, index: int) -> Window:
        """Return the window of an index."""
        return Window(index=index, start=index * self.length, end=(index + 1) * self.length)

    def index_at(self, time: int) -> int:
        """Return the index of the window that a time lies in."""
        return time // self.length

    def index_of(self, time: pl.Expr) -> pl.Expr:
        """Return the indices of the windows that times (Datetime in microseconds, or Int64) lie in."""
        return (time.to_physical() // self.length).alias(WINDOW)

    def num_windows(self, span: int) -> int:
        """Return the number of windows in which a span of time that begins within one may end, besides that one."""
        return -(-span // self.length)
