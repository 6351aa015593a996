"""How fast a model learns, by the times of its commits."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from growing_log import DAY_S
from hypothesis import given
from hypothesis import strategies as st
from small_log import small_das
from test_lines import FM, VM

from exfm.das.closing import LogState
from exfm.das.log_tables import Das
from exfm.das.pace import (
    MAX_SHARE,
    NUM_WINDOWS,
    ORDINAL_LIMIT_MS,
    LearnedWindow,
    examples_per_s,
    num_examples_of,
)
from exfm.schema import EventTime
from exfm.tables.commit import commit, stage

DAS = small_das("root")
NIGHT_MS = DAY_S * 1_000


def learned(*took_ms: int, num_examples: int = 1_000) -> list[LearnedWindow]:
    """Return consecutive windows that were learned, of which each took so long, after a first one."""
    at_ms, found = 0, [LearnedWindow(0, num_examples, 0)]
    for window, took in enumerate(took_ms, start=1):
        at_ms += took
        found.append(LearnedWindow(window, num_examples, at_ms))
    return found


def test_the_pace_is_the_examples_of_a_window_by_the_time_since_the_window_before() -> None:
    assert examples_per_s(learned(500), DAS) == 2_000
    assert examples_per_s(learned(500, 1_000, 4_000), DAS) == 1_000, "the median"


def test_nights_between_runs_do_not_count() -> None:
    assert examples_per_s(learned(NIGHT_MS, 500, NIGHT_MS - 60_000, 500, NIGHT_MS), DAS) == 2_000


def test_a_model_that_learns_a_window_a_night_has_no_pace() -> None:
    assert examples_per_s(learned(*[NIGHT_MS] * 9), DAS) is None
    assert examples_per_s(learned(), DAS) is None
    assert examples_per_s([], DAS) is None


def test_old_windows_do_not_count() -> None:
    assert examples_per_s(learned(*[10] * 50, *[2_000] * NUM_WINDOWS), DAS) == 500


def test_windows_without_examples_and_clocks_that_go_back_do_not_count() -> None:
    assert examples_per_s(learned(500, num_examples=0), DAS) is None
    assert examples_per_s(learned(0, -7_000, 500), DAS) == 2_000


def test_steps_have_no_nights_so_an_hour_is_a_pause() -> None:
    ordinal: Das = replace(
        DAS, schema=DAS.schema.model_copy(update={"event_time": EventTime(column="t", kind="ordinal")})
    )
    assert examples_per_s(learned(ORDINAL_LIMIT_MS), ordinal) == pytest.approx(1 / 3.6)
    assert examples_per_s(learned(ORDINAL_LIMIT_MS + 1), ordinal) is None


@given(took_ms=st.lists(st.integers(1, int(MAX_SHARE * NIGHT_MS)), min_size=1, max_size=NUM_WINDOWS))
def test_the_pace_is_between_the_slowest_and_the_fastest_window(took_ms: list[int]) -> None:
    pace = examples_per_s(learned(*took_ms), DAS)
    assert pace is not None
    assert 1_000_000 / max(took_ms) <= pace <= 1_000_000 / min(took_ms)


def store(das: Das, table: str, counts: Mapping[int, int], *, part: str = "") -> None:
    """Store as many rows of each window."""
    target = das.table(table, {"id": pl.Int64()})
    files = [
        stage(target, pl.DataFrame({"id": range(count)}), window=window, part=part) for window, count in counts.items()
    ]
    commit(target, files, item=f"{table} {part}")


def test_examples_that_are_not_predicted_are_estimated_by_the_share_of_the_newest_that_are(tmp_path: Path) -> None:
    das, last = small_das(tmp_path), NUM_WINDOWS
    store(das, "examples", dict.fromkeys(range(last + 2), 100) | {last + 2: 60})
    store(das, "predictions", dict.fromkeys(range(last + 1), 100), part=FM.part)
    store(das, "predictions", {0: 100} | dict.fromkeys(range(1, last + 1), 25), part=VM.part)
    state = LogState.of(das)
    assert num_examples_of(state, VM, [last + 1, last + 2]) == 0.25 * (100 + 60)
    assert num_examples_of(state, VM, [last, last + 1]) == 25 + 0.25 * 100, "one of them is predicted"
    assert num_examples_of(state, VM, [0]) == 100
