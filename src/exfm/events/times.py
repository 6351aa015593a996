"""Event time: a source's column, of any unit and zone, in the one form that exfm goes on with."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from exfm.errors import DataError
from exfm.features.faults import Fault
from exfm.schema import UNITS_PER_S, EventTime

TIMESTAMP = pl.Datetime("us", "UTC")
"""Type of absolute event time."""

END_S = 100_000_000_000
"""Times are below this many seconds, which is in the year 5138. Milliseconds are past it from 1973 on."""

YEAR_2000_S, YEAR_2100_S = 946_684_800, 4_102_444_800
"""Starts of these years, in seconds: in between, a number tells its unit."""

UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
FINER = {"s": "ms", "ms": "us", "us": "ns"}
"""The unit that a column may have whose times are past END_S; nanoseconds never are."""


@dataclass(frozen=True)
class Times:
    """The event times of a column's rows."""

    values: pl.Series
    """TIMESTAMP of absolute time, Int64 of ordinal time; null where impossible."""
    faults: Sequence[Fault]
    """Why times are impossible."""


def event_times(column: pl.Series, event_time: EventTime) -> Times:
    """Return the times in a column: Int64, of absolute time in the schema's unit, or timestamps of any unit.

    Timestamps without a zone are in the schema's zone.

    Raises: DataError if the column's type cannot be event time, or there is no such zone.
    """
    _require_type(column, event_time)
    null = Fault(column.name, "null", "an event time", column.is_null().to_numpy())
    if event_time.kind == "ordinal":
        return Times(values=column, faults=(null,))
    unit: str
    if isinstance(column.dtype, pl.Datetime):
        unit, zone = column.dtype.time_unit, column.dtype.time_zone or event_time.zone
        expected = "a time from 1970 to 5138"
    else:
        unit, zone = event_time.unit, "UTC"
        expected = f"{UNIT_NAMES[unit]} since 1970-01-01 UTC"
    in_units = column.to_physical()
    is_late = (in_units // UNITS_PER_S[unit] >= END_S).fill_null(value=False)
    is_early = (in_units < 0).fill_null(value=False)
    local = _microseconds(in_units.set(is_early | is_late, None), unit).cast(pl.Datetime("us"))
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is None:
        times = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")
    else:
        times = local.dt.replace_time_zone("UTC")
    is_early |= (times.to_physical() < 0).fill_null(value=False)  # in a zone to the east
    is_skipped = local.is_not_null() & times.is_null()
    finer = FINER.get(unit, "") if column.dtype == pl.Int64 else ""
    hint = f" ({UNIT_NAMES[finer]}? set `unit: {finer}` of event_time)" if finer else ""
    faults = (
        null,
        Fault(column.name, "before 1970", expected, is_early.to_numpy()),
        Fault(column.name, "after the year 5138", expected + hint, is_late.to_numpy()),
        Fault(column.name, f"skipped by a clock change in {zone}", "a time that exists", is_skipped.to_numpy()),
    )
    return Times(values=times.set(is_early, None), faults=faults)


def likely_unit(column: pl.Series) -> str:
    """Return the unit in which the median of a column's whole numbers is from 2000 to 2100; empty if there is none."""
    middle = column.drop_nulls().median() if column.dtype == pl.Int64 else None
    if not isinstance(middle, int | float):
        return ""
    return next((unit for unit, per_s in UNITS_PER_S.items() if YEAR_2000_S <= middle / per_s < YEAR_2100_S), "")


def _microseconds(in_units: pl.Series, unit: str) -> pl.Series:
    per_s = UNITS_PER_S[unit]
    return in_units * (10**6 // per_s) if per_s <= 10**6 else in_units // (per_s // 10**6)


def _require_type(column: pl.Series, event_time: EventTime) -> None:
    dtype = column.dtype
    if event_time.kind == "ordinal":
        expected, is_stamp = "Int64 (ordinal steps)", False
    else:
        expected = f"Int64 ({UNIT_NAMES[event_time.unit]} since 1970-01-01 UTC) or a timestamp"
        is_stamp = isinstance(dtype, pl.Datetime)
    if dtype != pl.Int64 and not is_stamp:
        raise DataError(type_problem(column.name, dtype, expected))
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is None:
        try:
            column.clear().dt.replace_time_zone(event_time.zone)
        except pl.exceptions.ComputeError as error:
            raise DataError(
                f"column {column.name!r} has timestamps without a zone, and the schema says event_time.zone "
                f"{event_time.zone!r}, expected a name of the IANA database, such as Europe/Berlin; correct it"
            ) from error


def type_problem(column: str, found: pl.DataType, expected: str) -> str:
    """Return what to say of a column of another type."""
    if found == pl.Null:
        return f"column {column!r} is null in every row, expected {expected}; fill it"
    return f"column {column!r} is {found}, expected {expected}; convert it"
