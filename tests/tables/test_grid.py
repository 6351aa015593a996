"""Windows on a grid that is anchored at time 0."""

from datetime import UTC, datetime

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from exfm.tables.grid import WINDOW, WindowGrid


@given(st.integers(1, 10**12), st.integers(-(10**15), 10**15))
def test_each_time_lies_in_its_window(length: int, time: int) -> None:
    grid = WindowGrid(length)
    window = grid.window(grid.index_at(time))
    assert window.start <= time < window.end
    assert window.end - window.start == length
    assert pl.select(grid.index_of(pl.lit(time, pl.Int64)))[WINDOW].item() == window.index


def test_times_are_counted_in_microseconds() -> None:
    day = WindowGrid(86_400_000_000)
    times = pl.Series(
        [datetime(1970, 1, 2, tzinfo=UTC), datetime(1969, 12, 31, 23, tzinfo=UTC)], dtype=pl.Datetime("us", "UTC")
    )
    assert pl.select(day.index_of(pl.lit(times)))[WINDOW].to_list() == [1, -1]


@given(st.integers(1, 100), st.integers(0, 1000), st.integers(0, 99))
def test_a_span_ends_in_one_of_the_windows_that_are_counted(length: int, span: int, begin: int) -> None:
    grid = WindowGrid(length)
    assert grid.index_at(begin % length + span) <= grid.num_windows(span)
