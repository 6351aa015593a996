"""A user's own log: impressions and feedback in Parquet files."""

import json
from typing import Annotated, BinaryIO, Literal

import polars as pl
from pydantic import Field, StringConstraints

from exfm.artifact.source_files import list_files
from exfm.artifact.stores import reaching
from exfm.config import Config
from exfm.errors import DataError

Files = Annotated[str, StringConstraints(min_length=1)]
"""A Parquet file, a folder of them, or a glob such as `impressions/*.parquet`; a path or an s3:// URL."""

SOURCE, NOTES = "exfm.source", "exfm.notes"
"""Metadata of a file that `exfm ingest` made of a data set: what its events are, and a JSON list of sentences."""


class LogSource(Config):
    """Events of your own, with the columns that the schema names."""

    kind: Literal["log"] = "log"
    """Chooses this source."""
    impressions: Files
    """Parquet files with one row for each item that was shown to a user, with its features as they were known then: a
    file, a folder or a glob; a path or an s3:// URL."""
    feedback: Files
    """Parquet files with one row for each reaction: impression key, event time, `kind` (string) and, if not 1.0,
    `value` (number)."""
    settle_s: Annotated[int, Field(ge=0, le=86_400)] = 0
    """Time since a file was written until it is taken, in seconds; 0 to 86,400. Files with later names wait for it.
    Several writers need it: more than their clocks differ and a write takes. 0: a file is taken at once."""
    names: dict[str, Files] = {}
    """Parquet files by id feature, with columns `id` and `name`: people then see a name instead of an id."""


def told_by(files: str) -> tuple[str, tuple[str, ...]]:
    """Return what the first of some Parquet files says of its events, and its notes; empty if it says nothing.

    Files that are in a log's tables may be gone: then they say nothing.

    Raises: DataError if the first is no Parquet file; StorageError if a store does not answer.
    """
    found = list_files(files)
    if not found:
        return "", ()
    with reaching(found[0].uri) as (filesystem, path), filesystem.open(path, "rb") as file:
        try:
            metadata = pl.read_parquet_metadata(file)
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{found[0].uri} is damaged, or no Parquet file; write it again") from error
    return metadata.get(SOURCE, ""), tuple(json.loads(metadata.get(NOTES, "[]")))


def columns_in(name: str, file: BinaryIO, *, of: str) -> pl.Schema:
    """Return the columns of an open Parquet file, by their types.

    Raises: DataError, which names the file, if it is damaged, or no Parquet file.
    """
    try:
        return pl.Schema(pl.read_parquet_schema(file))
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{of}: {name} is damaged, or no Parquet file; write it again, or name only the Parquet files, such as "
            "FOLDER/*.parquet"
        ) from error
