"""A user's own log: impressions and feedback in Parquet files."""

from collections.abc import Sequence
from typing import Annotated, Literal

import polars as pl
from pydantic import StringConstraints

from exfm.artifact.source_files import locate
from exfm.artifact.storage import is_local
from exfm.config import Config
from exfm.errors import DataError
from exfm.events.log import RawLog
from exfm.events.validation import NAMES_COLUMNS, feedback_columns, impression_columns
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
        feedback=_read(source.feedback, columns=feedback_columns(schema), of="feedback"),
        source=f"Parquet files {source.impressions} and {source.feedback}",
        notes=(),
        names={
            feature: _read(file, columns=NAMES_COLUMNS, of=f"names of {feature!r}")
            for feature, file in source.names.items()
        },
    )


def _read(files: str, *, columns: Sequence[str], of: str) -> pl.DataFrame:
    if not is_local(files):
        files = locate(files)  # polars reads columns from S3, but knows a folder by its slash alone
    try:
        found = pl.scan_parquet(files).collect_schema().names()  # of the first file
        if set(columns) <= set(found):
            rows = pl.scan_parquet(files, extra_columns="ignore")
            return rows.select(name for name in found if name in columns).collect()
        return pl.read_parquet(files)  # `write_event_log` says what is missing, and what there is
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{of}: {files} cannot be read ({error}); name a Parquet file, a folder of them or a glob that matches some"
        ) from error
