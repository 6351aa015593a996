"""Impressions with what their users did before, of more behaviours than fit into memory.

Both are spread over files by user. Then one file of each is in memory at a time.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl

from exfm.errors import DataError
from exfm.events.csv_files import read_csv
from exfm.events.datasets.dataset import TIME, Behaviours
from exfm.events.datasets.parquet_file import ParquetFile
from exfm.events.history import Arrivals, histories

NUM_FILES = 128
"""Of 700 million behaviours, one file has about 5.5 million."""

BUFFER_ROWS = 2_000_000
"""Rows that are kept until they are spread, so that files have few and large row groups."""


PLACE = "place"
"""Column that tells which file a row is in."""


class SpreadRows:
    """Rows in NUM_FILES Parquet files, by their user."""

    def __init__(self, folder: Path, *, user: str) -> None:
        folder.mkdir()
        self._paths = [folder / f"{number}.parquet" for number in range(NUM_FILES)]
        self._files = [ParquetFile(path, {}) for path in self._paths]
        self._user = user
        self._buffer: list[pl.DataFrame] = []
        self.num_rows = 0

    def write(self, rows: pl.DataFrame) -> None:
        """Add rows."""
        self.num_rows += rows.height
        self._buffer.append(rows)
        if sum(part.height for part in self._buffer) >= BUFFER_ROWS:
            self._flush()

    def close(self) -> None:
        """Finish the files, which can be read then; closed again, it does nothing."""
        self._flush()
        for file in self._files:
            file.close()

    def read(self) -> Iterator[pl.DataFrame]:
        """Yield the rows of each file."""
        yield from (pl.read_parquet(path) for path in self._paths)

    def _flush(self) -> None:
        if not self._buffer:
            return
        rows, self._buffer = pl.concat(self._buffer), []
        number = (pl.col(self._user) % NUM_FILES).alias(PLACE)
        by_place = rows.with_columns(number).partition_by(PLACE, as_dict=True, include_key=False)
        for place, file in enumerate(self._files):
            file.write(by_place.get((place,), rows.clear()))


class Sequences:
    """Impressions on their way to a file, which get their users' sequences if there are behaviours."""

    def __init__(self, behaviours: Behaviours | None, log: str, scratch: Path, shown: ParquetFile) -> None:
        self._behaviours, self._log, self._scratch, self._shown = behaviours, log, scratch, shown
        self._spread = SpreadRows(scratch / "impressions", user=behaviours.of) if behaviours and log else None

    def __enter__(self) -> Self:
        """Return the impressions, which can be written now."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close all files."""
        if self._spread is not None:
            self._spread.close()

    def write(self, rows: pl.DataFrame) -> None:
        """Add impressions."""
        if self._spread is not None:
            self._spread.write(rows)
        else:
            empty = pl.lit([], dtype=pl.List(pl.Int64))
            self._shown.write(rows.with_columns(empty.alias(name) for name in self._names))

    def finish(self) -> None:
        """Write what waits for its sequences.

        Raises: as `read_csv`, of the file of behaviours; DataError if it has no rows.
        """
        if self._spread is None or self._behaviours is None:
            return
        self._spread.close()
        done = _spread_behaviours(self._log, self._behaviours, self._scratch / "behaviours")
        for rows in _with_sequences(self._spread.read(), done.read(), self._behaviours):
            self._shown.write(rows)

    @property
    def _names(self) -> Iterable[str]:
        return self._behaviours.sequences if self._behaviours else ()


def _spread_behaviours(uri: str, behaviours: Behaviours, folder: Path) -> SpreadRows:
    spread = SpreadRows(folder, user=behaviours.user)
    try:
        for rows in read_csv(uri, behaviours.layout):
            spread.write(rows.select(behaviours.user, behaviours.time, **behaviours.sequences))
    finally:
        spread.close()
    if not spread.num_rows:
        raise DataError(f"{uri}: there are no rows; copy the file again, or move it away")
    return spread


def _with_sequences(
    impressions: Iterable[pl.DataFrame], done: Iterable[pl.DataFrame], behaviours: Behaviours
) -> Iterator[pl.DataFrame]:
    """Yield spread impressions with their users' sequences: of behaviours strictly before the impression."""
    for shown, rows in zip(impressions, done, strict=True):
        if shown.is_empty():
            continue
        users, times = rows[behaviours.user].to_numpy(), rows[behaviours.time].to_numpy()
        yield shown.with_columns(
            histories(
                shown[behaviours.of].to_numpy(),
                shown[TIME].to_numpy(),
                arrivals=Arrivals(users=users, items=rows[name].to_numpy(), times=times),
                max_length=behaviours.max_length,
            ).alias(name)
            for name in behaviours.sequences
        )
