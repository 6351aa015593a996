"""Which examples have an id that their stream had not shown before.

Legend: B examples.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

NO_ID, KNOWN, NEW = -1, 0, 1
"""What an example has of a feature: no id, an id that an earlier window had, or one that came first in this window."""

Newness = npt.NDArray[np.int8]


class SeenValues:
    """The distinct ids of some columns, in all windows so far."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._seen: dict[str, pl.Series] = {}

    def add(self, frame: pl.DataFrame) -> dict[str, Newness]:
        """Take the next window's rows, and return NO_ID, KNOWN or NEW for each, [B], by column."""
        return {column: self._add(frame[column]) for column in self._columns}

    def _add(self, ids: pl.Series) -> Newness:
        seen = self._seen.get(ids.name, ids.clear())
        is_new = ~ids.is_in(seen.implode()) if len(seen) else ids.is_not_null()
        self._seen[ids.name] = pl.concat([seen, ids.drop_nulls()]).unique()
        newness = np.where(is_new.fill_null(value=False).to_numpy(), NEW, KNOWN)
        return np.where(ids.is_null().to_numpy(), NO_ID, newness).astype(np.int8)
