"""A source as files that arrive one after the other, and the rows of each, a slice at a time."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import polars as pl

from exfm.artifact.digests import digest_of_json
from exfm.artifact.source_files import list_files, locate
from exfm.errors import DataError, StorageError
from exfm.events.log import IMPRESSIONS
from exfm.events.parquet import LogSource
from exfm.events.rules import feedback_columns, impression_columns
from exfm.events.sources import Source, load
from exfm.schema import Schema

ROW = "row"
"""Column: the place of a row in its file, from 0."""

SLICE_ROWS = 262_144
"""Rows that are in memory at a time."""


LogPart = Literal["impressions", "feedback"]
PARTS: tuple[LogPart, ...] = ("feedback", "impressions")
"""In order of arrival, of files of one name."""


@dataclass(frozen=True)
class SourceFile:
    """Rows of one part of a log that arrive together."""

    part: LogPart
    name: str
    """Below the source's folder: files arrive in the order of their names."""
    uri: str
    size_bytes: int
    """Of a source that is no log, and is generated or converted whole: a number of its settings."""


def is_finite(source: Source) -> bool:
    """Return whether a source is a data set that nothing is added to, unlike a log."""
    return not isinstance(source, LogSource)


def source_files(source: Source) -> list[SourceFile]:
    """Return what a source has by now, in order of arrival: by name, feedback before impressions of the same name.

    Impressions are listed on both sides of feedback, until both lists agree. So files that come in between do not lose
    their order. The first file that is younger than the log's `settle_s` is left out, and all after it. So a clock
    decides when a file is taken, but not what becomes of its rows.

    Raises: StorageError if no file is there, or a store does not answer.
    """
    if not isinstance(source, LogSource):
        settings = digest_of_json(source.model_dump(mode="json", exclude={"folder"}))
        number = int(settings[:12], 16)  # a data set's files may move
        return [SourceFile(part=part, name=source.kind, uri=source.kind, size_bytes=number) for part in PARTS]
    impressions, feedback = locate(source.impressions), locate(source.feedback)
    before, listed = None, list_files(impressions)
    while listed != before:
        before, responses, listed = listed, list_files(feedback), list_files(impressions)
    found = [(part, file) for part, files in zip(PARTS, (responses, listed), strict=True) for file in files]
    found.sort(key=lambda of_part: of_part[1].name)  # stable: feedback stays first
    settled_s = time.time() - source.settle_s
    settled = takewhile(lambda of_part: not source.settle_s or of_part[1].written_s <= settled_s, found)
    return [SourceFile(part=part, name=one.name, uri=one.uri, size_bytes=one.size_bytes) for part, one in settled]


def slices(file: SourceFile, source: Source, *, schema: Schema) -> Iterator[pl.DataFrame]:
    """Yield a file's rows with ROW, and of its columns those that the schema names and the file has.

    Raises: DataError if the file is no Parquet file, or of a data set what `load` raises; StorageError if a store does
    not answer.
    """
    wanted = impression_columns(schema) if file.part == IMPRESSIONS else feedback_columns(schema)
    if not isinstance(source, LogSource):
        whole = load(source)
        frame = whole.impressions if file.part == IMPRESSIONS else whole.feedback
        rows = frame.select(name for name in frame.columns if name in wanted).with_row_index(ROW)
        yield from (_cast(part) for part in rows.iter_slices(SLICE_ROWS))
        return
    try:
        scan = pl.scan_parquet(file.uri, glob=False, hive_partitioning=False)
        columns = [name for name in scan.collect_schema().names() if name in wanted]
        num_rows = scan.select(pl.len()).collect().item()
        for start in range(0, max(num_rows, 1), SLICE_ROWS):
            yield _cast(scan.select(columns).slice(start, SLICE_ROWS).with_row_index(ROW, offset=start).collect())
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{file.part}: {file.uri} is damaged, or no Parquet file ({error}); write it again, or name only the "
            "Parquet files, such as FOLDER/*.parquet"
        ) from error
    except OSError as error:
        raise StorageError(f"{file.uri}: {error}; check the path, the rights and the credentials") from error


def _cast(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col(ROW).cast(pl.Int64))
