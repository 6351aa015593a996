"""Names of ids, for people."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from exfm.artifact.source_files import locate
from exfm.errors import DataError
from exfm.events.rules import select
from exfm.schema import Schema

NAMES_COLUMNS = ("id", "name")
"""Columns of a table that names an id feature's ids."""


def read_names(files: str, *, feature: str) -> pl.DataFrame:
    """Return the table of names in Parquet files.

    Raises: DataError if a file is no Parquet file, or lacks a column; StorageError if no file is there, or a store does
    not answer.
    """
    try:
        rows = pl.scan_parquet(locate(files), extra_columns="ignore").collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"names of {feature!r}: {files} cannot be read ({error}); write the files again") from error
    return select(rows, NAMES_COLUMNS, of=f"names of {feature!r} in {files}")


def checked_names(names: Mapping[str, pl.DataFrame], schema: Schema) -> dict[str, dict[Any, str]]:
    """Return the names of those id features that the schema has, by id.

    Raises: DataError if a table of names has a null, or names an id twice.
    """
    known = {feature.name for feature in schema.sparse}
    checked = {}
    for feature, rows in names.items():
        if feature not in known:
            continue
        of = f"names of {feature!r}"
        for column in NAMES_COLUMNS:
            if rows[column].null_count():
                raise DataError(f"{of}: column {column!r} is null in {rows[column].null_count()} rows; fill it")
        if rows["id"].n_unique() < rows.height:
            raise DataError(f"{of}: {rows.height - rows['id'].n_unique()} ids are named more than once; name each once")
        checked[feature] = dict(zip(rows["id"], rows["name"], strict=True))
    return checked
