"""What the log of a table says of a file, by which engines (Spark, Trino, DuckDB, polars) skip files unread."""

import json
from datetime import UTC, datetime, timedelta

import polars as pl

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATED_MS = range(-62_135_596_800_000, 253_402_300_800_000)
"""Milliseconds of the years 1 to 9999, which dates in a log can have."""


def file_statistics(rows: pl.DataFrame) -> str:
    """Return the number of rows, and bounds of whole numbers and times, as Delta's JSON."""
    low: dict[str, int | str] = {}
    high: dict[str, int | str] = {}
    for column in rows.select(pl.col(pl.Int64, pl.Datetime("us", "UTC"))):
        smallest, largest = column.to_physical().min(), column.to_physical().max()
        if not isinstance(smallest, int) or not isinstance(largest, int):
            continue  # no value, or none but nulls
        if column.dtype == pl.Int64:
            low[column.name], high[column.name] = smallest, largest
            continue
        start_ms, end_ms = smallest // 1000, -(-largest // 1000)  # Delta's times have milliseconds
        if start_ms in _DATED_MS and end_ms in _DATED_MS:
            low[column.name], high[column.name] = _dated(start_ms), _dated(end_ms)
    return json.dumps({"numRecords": rows.height, "minValues": low, "maxValues": high})


def _dated(time_ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
