"""Arrival alone says what closed what."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from exfm.das.timeline import Arrival, Timeline, watermark_after

arrivals = st.lists(
    st.builds(
        Arrival,
        name=st.sampled_from("abcdef"),
        part=st.sampled_from(["feedback", "impressions", "until"]),
        watermark=st.none() | st.integers(-5, 20),
    ),
    max_size=12,
)


def test_a_watermark_is_a_files_time_less_the_allowed_lateness() -> None:
    assert watermark_after(None, 100, allowed_lateness=30) == 70


def test_a_watermark_never_goes_back() -> None:
    assert watermark_after(90, 100, allowed_lateness=30) == 90


def test_a_file_without_impressions_leaves_the_watermark() -> None:
    assert watermark_after(90, None, allowed_lateness=0) == 90
    assert watermark_after(None, None, allowed_lateness=0) is None


def test_the_first_file_whose_watermark_reaches_a_time_closes_it() -> None:
    timeline = Timeline(
        [
            Arrival("1", "feedback", None),
            Arrival("1", "impressions", 10),
            Arrival("2", "feedback", 10),
            Arrival("2", "impressions", 20),
        ]
    )
    assert [timeline.passed(time) for time in (9, 10, 11, 20, 21)] == ["1", "1", "2", "2", None]


def test_a_users_word_counts_from_the_last_file_before_it() -> None:
    timeline = Timeline([Arrival("1", "impressions", 10), Arrival("1", "until", 30), Arrival("2", "impressions", 20)])
    assert timeline.passed(25) == "1"
    assert timeline.watermark == 30


def test_nothing_has_passed_before_anything_arrived() -> None:
    timeline = Timeline([])
    assert (timeline.watermark, timeline.last, timeline.passed(0)) == (None, None, None)


@given(arrivals, st.integers(-6, 21))
def test_passed_is_the_first_in_order_that_is_far_enough(found: list[Arrival], time: int) -> None:
    in_order = sorted(found, key=lambda one: one.order)
    enough = [one.name for one in in_order if one.watermark is not None and one.watermark >= time]
    assert Timeline(reversed(found)).passed(time) == next(iter(enough), None)


@given(arrivals, st.integers(-6, 21))
def test_what_arrives_later_changes_nothing_that_was_closed(found: list[Arrival], time: int) -> None:
    in_order = sorted(found, key=lambda one: one.order)
    closed = [Timeline(in_order[:length]).passed(time) for length in range(len(in_order) + 1)]
    assert all(after == before for before, after in pairwise(closed) if before is not None)
