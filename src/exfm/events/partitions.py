"""A dataset: a folder with one Parquet file for each window, `window=00003/part-0.parquet`."""

from pathlib import Path

import polars as pl

from exfm.artifact.manifest import Window
from exfm.errors import StorageError


def partition(dataset: Path, window: Window) -> Path:
    """Return the file of one window."""
    return dataset / window.folder / "part-0.parquet"


def write_partition(frame: pl.DataFrame, dataset: Path, window: Window) -> None:
    """Write one window; every window of a dataset has its file, also one without rows."""
    path = partition(dataset, window)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)


def read_partition(dataset: Path, window: Window) -> pl.DataFrame:
    """Return one window.

    Raises: StorageError if its file is missing or damaged.
    """
    return read_parquet(partition(dataset, window))


def read_parquet(path: Path) -> pl.DataFrame:
    """Return the rows of one file.

    Raises: StorageError if it is missing or damaged.
    """
    try:
        return pl.read_parquet(path, hive_partitioning=False)  # `window=` in the path is no column
    except FileNotFoundError as error:
        raise StorageError(f"{path} is missing; run the stage that writes it") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StorageError(f"{path} is not a readable Parquet file: {error}") from error
