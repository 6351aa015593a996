from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfm.errors import ConfigError, DataError
from exfm.events.times import END_S, TIMESTAMP, Times, event_times
from exfm.schema import UNITS_PER_S, EventTime

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
NOON_S = 1_782_907_200


def times_of(values: list[Any], dtype: Any = pl.Int64, **settings: Any) -> Times:
    return event_times(pl.Series("t", values, dtype=dtype), EventTime(column="t", **settings))


def faults_of(times: Times) -> dict[str, list[int]]:
    """Return the rows that are at fault, by the reason."""
    found = {fault.reason: np.flatnonzero(fault.rows_B).tolist() for fault in times.faults}
    return {reason: rows for reason, rows in found.items() if rows}


@pytest.mark.parametrize(("unit", "per_s"), UNITS_PER_S.items())
def test_whole_numbers_are_of_the_schemas_unit(unit: str, per_s: int) -> None:
    times = times_of([NOON_S * per_s, 0], unit=unit)
    assert times.values.dtype == TIMESTAMP
    assert times.values.to_list() == [NOON, datetime(1970, 1, 1, tzinfo=UTC)]
    assert not faults_of(times)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_timestamps_of_any_unit_and_zone_are_read(unit: Literal["ms", "us", "ns"], zone: str | None) -> None:
    column = pl.Series("t", [NOON_S * UNITS_PER_S[unit]]).cast(pl.Datetime(unit, zone))
    times = event_times(column, EventTime(column="t", unit="ms"))  # which is for whole numbers only
    assert times.values.to_list() == [NOON]
    assert times.values.dtype == TIMESTAMP


def test_timestamps_without_a_zone_are_in_the_schemas() -> None:
    shown = [datetime(2026, 7, 1, 14), datetime(2026, 1, 1, 13)]
    times = times_of(shown, pl.Datetime("ms"), zone="Europe/Berlin")
    assert times.values.to_list() == [NOON, datetime(2026, 1, 1, 12, tzinfo=UTC)]
    in_utc = pl.Series("t", [NOON], dtype=TIMESTAMP)
    assert event_times(in_utc, EventTime(column="t", zone="Europe/Berlin")).values.to_list() == [NOON]


def test_a_clock_change_makes_an_hour_that_is_not_and_one_that_is_twice() -> None:
    shown = [datetime(2026, 3, 29, 2, 30), datetime(2026, 10, 25, 2, 30), None]
    times = times_of(shown, pl.Datetime("us"), zone="Europe/Berlin")
    assert times.values.to_list() == [None, datetime(2026, 10, 25, 0, 30, tzinfo=UTC), None]
    assert faults_of(times) == {
        "t: null, expected an event time": [2],
        "t: skipped by a clock change in Europe/Berlin, expected a time that exists": [0],
    }


def test_impossible_times_are_told_apart() -> None:
    times = times_of([NOON_S, None, -1, END_S, END_S - 1, -(2**63), 2**63 - 1])
    since = "expected seconds since 1970-01-01 UTC"
    assert faults_of(times) == {
        "t: null, expected an event time": [1],
        f"t: before 1970, {since}": [2, 5],
        f"t: after the year 5138, {since} (milliseconds? set `unit: ms` of event_time)": [3, 6],
    }
    assert times.values.is_null().to_list() == [False, True, True, True, False, True, True]


@pytest.mark.parametrize(("unit", "hint"), [("ms", "(microseconds? set `unit: us`"), ("us", "(nanoseconds? set")])
def test_times_of_a_finer_unit_get_a_hint(unit: str, hint: str) -> None:
    [reason] = faults_of(times_of([END_S * UNITS_PER_S[unit]], unit=unit))
    assert hint in reason


def test_timestamps_out_of_bounds_are_impossible() -> None:
    column = pl.Series("t", [-1, 2**63 - 1, END_S * 1000]).cast(pl.Datetime("ms"))
    times = event_times(column, EventTime(column="t"))
    assert times.values.null_count() == 3
    assert faults_of(times) == {
        "t: before 1970, expected a time from 1970 to 5138": [0],
        "t: after the year 5138, expected a time from 1970 to 5138": [1, 2],
    }


def test_a_zone_to_the_east_makes_the_first_hours_of_1970_impossible() -> None:
    first = [datetime(1970, 1, 1, 0, 30), datetime(1970, 1, 1, 1)]
    times = times_of(first, pl.Datetime("us"), zone="Europe/Berlin")
    assert times.values.to_list() == [None, datetime(1970, 1, 1, tzinfo=UTC)]
    assert faults_of(times) == {"t: before 1970, expected a time from 1970 to 5138": [0]}


def test_ordinal_time_is_left_as_it_is() -> None:
    times = times_of([-(2**63), None, 2**63 - 1], kind="ordinal")
    assert times.values.to_list() == [-(2**63), None, 2**63 - 1]
    assert faults_of(times) == {"t: null, expected an event time": [1]}


@pytest.mark.parametrize(
    ("dtype", "settings", "message"),
    [
        (
            pl.Datetime("us"),
            {"kind": "ordinal"},
            r"^column 't' is Datetime.*, expected Int64 \(ordinal steps\); convert",
        ),
        (pl.Date, {}, "^column 't' is Date, expected Int64 .seconds since 1970-01-01 UTC. or a timestamp; convert it"),
        (pl.Int32, {"unit": "ms"}, "^column 't' is Int32, expected Int64 .milliseconds since 1970-01-01 UTC. or a"),
        (pl.Null, {}, "^column 't' is null in every row, expected Int64 .seconds since 1970-01-01 UTC. or a timestamp"),
        (pl.Datetime("us"), {"zone": "Europe/Berln"}, "event_time.zone 'Europe/Berln', expected a name of the IANA"),
    ],
)
def test_a_column_that_is_no_time_is_refused(dtype: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        times_of([], dtype, **settings)


@pytest.mark.parametrize("settings", [{"unit": "ms"}, {"zone": "Europe/Berlin"}])
def test_ordinal_time_has_no_unit_and_no_zone(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="ordinal time has no unit and no zone; leave them out"):
        EventTime.parse({"column": "t", "kind": "ordinal", **settings}, source="test")


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=10), st.sampled_from(sorted(UNITS_PER_S)))
def test_a_time_is_possible_or_has_one_fault(steps: list[int | None], unit: str) -> None:
    times = times_of(steps, unit=unit)
    faults = np.array([fault.rows_B for fault in times.faults]).sum(axis=0)
    micros = times.values.to_physical().to_list()
    for step, micro, num_faults in zip(steps, micros, faults, strict=True):
        is_possible = step is not None and 0 <= step < END_S * UNITS_PER_S[unit]
        assert num_faults == (not is_possible)
        assert micro == (step * 10**6 // UNITS_PER_S[unit] if step is not None and is_possible else None)
