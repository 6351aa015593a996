"""A user's own log: impressions and feedback in Parquet files."""

from collections.abc import Sequence
from typing import Annotated, BinaryIO, Literal

import polars as pl
from pydantic import StringConstraints

from exfm.artifact.source_files import locate, open_files
from exfm.config import Config
from exfm.errors import DataError
from exfm.events.log import FEEDBACK, IMPRESSIONS, RawLog
from exfm.events.rules import FEEDBACK_VALUE, feedback_columns, impression_columns
from exfm.events.validation import NAMES_COLUMNS
from exfm.schema import Schema

Files = Annotated[str, StringConstraints(min_length=1)]
"""A Parquet file, a folder of them, or a glob such as `impressions/*.parquet`; a path or an s3:// URL."""


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
    names: dict[str, Files] = {}
    """Parquet files by id feature, with columns `id` and `name`: people then see a name instead of an id."""


def load_parquet(source: LogSource, *, schema: Schema) -> RawLog:
    """Return the events in a user's Parquet files; columns that the schema does not name stay on disk.

    Raises: DataError if there are no such files, or they are not Parquet files that all have those columns;
    StorageError if a store has no such files, or does not answer.
    """
    return RawLog(
        impressions=_read(source.impressions, columns=impression_columns(schema), of="impressions"),
        feedback=_read(source.feedback, columns=feedback_columns(schema), optional=(FEEDBACK_VALUE,), of="feedback"),
        source=f"Parquet files {source.impressions} and {source.feedback}",
        notes=(),
        files={IMPRESSIONS: source.impressions, FEEDBACK: source.feedback},
        names={
            feature: _read(file, columns=NAMES_COLUMNS, of=f"names of {feature!r}")
            for feature, file in source.names.items()
        },
    )


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


def _read(files: str, *, columns: Sequence[str], of: str, optional: Sequence[str] = ()) -> pl.DataFrame:
    """Return these columns, but for optional ones that no file has.

    Raises: DataError if a file is no Parquet file, or lacks a column; StorageError if no file is there, or a store does
    not answer.
    """
    place = locate(files)  # polars knows a folder on S3 only by its slash
    try:
        found = pl.scan_parquet(place).collect_schema().names()  # of the first file
        wanted = [name for name in found if name in columns]
        if len(wanted) < len(columns):  # what the first file lacks must not be left out of others unseen
            _require_agreement(place, columns, of=of)
        missing = [name for name in columns if name not in found and name not in optional]
        if missing:
            raise DataError(
                f"{of}: column {', '.join(map(repr, missing))} is missing in {files}; the columns are "
                f"{', '.join(found)}: add it, or correct the schema"
            )
        return pl.scan_parquet(place, extra_columns="ignore").select(wanted).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        _require_agreement(place, columns, of=of)
        raise DataError(f"{of}: {files} cannot be read; write the files again") from error


def _require_agreement(place: str, columns: Sequence[str], *, of: str) -> None:
    """Return if all files of a place are Parquet files that have the same of these columns, each as one type."""
    schemas: dict[str, pl.Schema] = {}
    for name, file in open_files(place):
        schemas[name] = columns_in(name, file, of=of)
    if not schemas:
        raise DataError(f"{of}: {place} has only empty files; name Parquet files")
    (first, expected), *others = schemas.items()
    for column in columns:
        for other, schema in others:
            if (column in schema) != (column in expected):
                having, lacking = (first, other) if column in expected else (other, first)
                raise DataError(f"{of}: {having} has a column {column!r}, {lacking} has none; write it to all files")
            if schema.get(column) != expected.get(column):
                raise DataError(
                    f"{of}: column {column!r} is {expected[column]} in {first}, but {schema[column]} in {other}; write "
                    "it as one type to all files"
                )
