"""A dataset: a folder with one Parquet file for each window, `window=00003/part-0.parquet`."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from exfm.artifact.manifest import Window
from exfm.errors import DataError, StorageError


def partition(dataset: Path, window: Window) -> Path:
    """Return the file of one window."""
    return dataset / window.folder / "part-0.parquet"


def write_partition(frame: pl.DataFrame, dataset: Path, window: Window) -> None:
    """Write one window; every window of a dataset has its file, also one without rows."""
    path = partition(dataset, window)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)


def read_partition(dataset: Path, window: Window, *, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Return one window, of which only these columns leave the disk; none named: all.

    Raises: StorageError if its file is missing or damaged, or lacks a column.
    """
    return read_parquet(partition(dataset, window), columns=columns)


def read_parquet(path: Path, *, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Return the rows of one file, of which only these columns leave the disk; none named: all.

    Raises: StorageError if it is missing or damaged, or lacks a column.
    """
    try:  # `window=` in the path is no column
        return pl.read_parquet(path, columns=list(columns) or None, hive_partitioning=False)
    except FileNotFoundError as error:
        raise StorageError(f"{path} is missing; run the stage that writes it") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        wanted = f" with columns {', '.join(columns)}" if columns else ""
        raise StorageError(
            f"{path} is not a readable Parquet file{wanted}; run the stage that writes it again"
        ) from error


def join_rows(rows: pl.DataFrame, other: pl.DataFrame, *, key: str, of: Path, onto: str) -> pl.DataFrame:
    """Return rows with the columns of others, joined by key, in the order of the first.

    `of` is the file of the others and `onto` what the rows are, for messages.

    Raises: DataError if the others do not hold exactly one row for each of them.
    """
    if other[key].is_duplicated().any():
        raise DataError(f"{of} has several rows for an impression; run the stage that writes it again")
    joined = rows.join(other, on=key, how="inner", maintain_order="left")
    if len(joined) != len(rows):
        raise DataError(
            f"{of} has rows for {len(joined)} of {len(rows)} impressions of {onto}; run the stage that writes it again"
        )
    return joined
