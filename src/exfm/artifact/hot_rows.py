"""Which rows of a table are hot: the lists in a bundle, and a set that finds a row's place in one.

A file of hot rows holds a uint32 tensor for each table that has a hot slice, named by the table: row numbers, rising.
A row's place among them is its place in the hot slice. The ranker's file has all tables, a shard's those that it holds.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from exfm.artifact.plan import TableSlice
from exfm.artifact.rows import Rows
from exfm.errors import BundleError
from exfm.schema import Schema

HOT_ROWS_FILE = "ranker/hot_rows.safetensors"
"""A ranker's hot rows in a bundle."""


def hot_rows_file(shard: int) -> str:
    """Return the path of a shard's hot rows in a bundle."""
    return f"shards/{shard}/hot_rows.safetensors"


_WORD_BITS = 64
_LOW_BITS = np.int64(_WORD_BITS - 1)
_ONE = np.uint64(1)


class RowSet:
    """Some rows of one table, in which others are found without a search.

    It has a bit for each row of the table, and for each 64 of them the number of members before (docs/measurements.md).
    """

    def __init__(self, rows: Rows, *, num_rows: int) -> None:
        """Take rising row numbers below `num_rows`, the table's."""
        words = np.zeros(-(-num_rows // _WORD_BITS), dtype=np.uint64)
        np.bitwise_or.at(words, rows // _WORD_BITS, _bits(rows))
        before = np.zeros(len(words), dtype=np.uint32)
        np.cumsum(np.bitwise_count(words[:-1]), out=before[1:], dtype=np.uint32)
        self._words, self._before, self._size = words, before, len(rows)

    def __len__(self) -> int:
        """Return the number of rows in the set."""
        return self._size

    def contain(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Return which of these rows are in the set; shape of `rows`."""
        contained: npt.NDArray[np.bool_] = (self._words[rows // _WORD_BITS] & _bits(rows)) != 0
        return contained

    def positions(self, rows: Rows) -> Rows:
        """Return how many rows of the set are smaller than each of these; -1 for one that is not in the set."""
        words, bits = self._words[rows // _WORD_BITS], _bits(rows)
        smaller = np.bitwise_count(words & (bits - _ONE))
        positions: Rows = self._before[rows // _WORD_BITS].astype(np.int64) + smaller
        return np.where((words & bits) != 0, positions, np.int64(-1))


HotRows = Mapping[str, RowSet]
"""Hot rows of each table with a hot slice."""

NO_HOT_ROWS: Mapping[str, Any] = MappingProxyType({})
"""Hot rows of a plan without hot slices."""


def write_hot_rows(path: Path, rows: Mapping[str, Rows]) -> None:
    """Write the hot rows of each table, rising, into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file({table: of_table.astype(np.uint32) for table, of_table in rows.items()}, path)
    path.chmod(0o644)  # safetensors makes it private, but servers run as another user


def read_hot_rows(path: Path, slices: Iterable[TableSlice], schema: Schema) -> dict[str, RowSet]:
    """Return the hot rows of these slices, by table; without a hot slice among them no file is needed.

    Raises: BundleError if the file is missing or malformed, or has other rows than the slices say.
    """
    hot = [slice_ for slice_ in slices if slice_.kind == "hot"]
    if not hot:
        return {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {slice_.table: _row_set(path, file.get_tensor(slice_.table), slice_, schema) for slice_ in hot}
    except (OSError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path}: {error}; export the bundle again") from error


def _row_set(path: Path, rows: npt.NDArray[Any], slice_: TableSlice, schema: Schema) -> RowSet:
    num_rows = schema.table(slice_.table).rows
    if rows.dtype != np.uint32 or rows.shape != (slice_.num_rows,):
        raise BundleError(
            f"{path}: the hot rows of table {slice_.table!r} are {rows.dtype} {list(rows.shape)}, "
            f"expected uint32 [{slice_.num_rows}]; export the bundle again"
        )
    if (rows[1:] <= rows[:-1]).any() or rows[-1] >= num_rows:
        raise BundleError(
            f"{path}: the hot rows of table {slice_.table!r} do not rise, or reach beyond its {num_rows} rows; "
            "export the bundle again"
        )
    return RowSet(rows.astype(np.int64), num_rows=num_rows)


def _bits(rows: Rows) -> npt.NDArray[np.uint64]:
    return _ONE << (rows & _LOW_BITS).astype(np.uint64)
