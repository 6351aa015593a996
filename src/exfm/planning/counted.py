"""Counted table statistics in files: statistics.json, and hottest_rows.safetensors.

hottest_rows.safetensors has a uint32 tensor for each table, with the table's name: row numbers, hottest first.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from exfm.artifact.manifest import write_json
from exfm.artifact.output import writing
from exfm.artifact.rows import Rows
from exfm.artifact.stores import join, read_file
from exfm.errors import StorageError
from exfm.planning.statistics import Statistics, TableStatistics

STATISTICS_FILE = "statistics.json"
HOTTEST_ROWS_FILE = "hottest_rows.safetensors"


@dataclass(frozen=True)
class Counted:
    """Table statistics, with the hottest rows of each table."""

    statistics: Statistics
    hottest: Mapping[str, Rows]
    """Accessed rows of each table, hottest first, at most MAX_HOTTEST_ROWS."""

    def write(self, out: str) -> None:
        """Write both files into a folder or under a URL; replace earlier ones.

        Raises: StorageError if writing fails, or the folder has other files.
        """
        with writing(out, files=(STATISTICS_FILE, HOTTEST_ROWS_FILE)) as folder:
            write_json(folder / STATISTICS_FILE, self.statistics.to_dict())
            rows = {table: of_table.astype(np.uint32) for table, of_table in self.hottest.items()}
            safetensors.numpy.save_file(rows, folder / HOTTEST_ROWS_FILE)
            (folder / HOTTEST_ROWS_FILE).chmod(0o644)  # safetensors makes it private

    @classmethod
    def read(cls, uri: str) -> Self:
        """Return the statistics in a folder or under a URL.

        Raises: StorageError if a file is missing or malformed, or the two files do not belong together; ConfigError,
        which names each wrong statistic.
        """
        place = join(uri, STATISTICS_FILE)
        try:
            statistics = Statistics.parse(json.loads(read_file(place)), source=place)
            tensors = safetensors.numpy.load(read_file(join(uri, HOTTEST_ROWS_FILE)))
        except (ValueError, safetensors.SafetensorError) as error:
            raise StorageError(f"{uri}: table statistics cannot be read: {error}; count them again") from error
        for table in statistics.tables:
            _check_hottest(uri, table, tensors.get(table.name, np.empty(0, dtype=np.uint32)))
        return cls(statistics, {table: rows.astype(np.int64) for table, rows in tensors.items()})


def _check_hottest(uri: str, table: TableStatistics, rows: npt.NDArray[Any]) -> None:
    num_ranked = table.skew[-1].num_rows if table.skew else 0
    if rows.dtype != np.uint32 or rows.ndim != 1:
        raise StorageError(
            f"{uri}: the hottest rows of table {table.name!r} are {rows.dtype} {list(rows.shape)}, expected a list "
            "of uint32; count them again"
        )
    beyond = int(rows.max(initial=0))
    if len(rows) < num_ranked or beyond >= table.rows:
        raise StorageError(
            f"{uri}: table {table.name!r} has {len(rows)} hottest rows up to row {beyond}, expected at least "
            f"{num_ranked}, all below row {table.rows}; count them again"
        )
