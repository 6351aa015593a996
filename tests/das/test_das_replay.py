"""Whatever a log holds, and whichever of its files a run finds, the tables are those of one replay."""

import tempfile
from pathlib import Path

import pytest
from growing_log import assert_same, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_log import SmallLog, clicks_only, run, small_das

from exfm.das.closing import LogState, accounts
from exfm.das.log_tables import Das

pytestmark = pytest.mark.slow

DAYS = 4
keys = st.integers(0, 12)
days = st.integers(0, 24 * DAYS).map(lambda hours: hours / 24)
one_file = st.tuples(
    st.lists(st.tuples(keys, days), max_size=8), st.lists(st.tuples(keys, days), max_size=8), st.booleans()
)
"""Impressions and feedback of a file each, and whether a run comes before the next file."""


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    files=st.lists(one_file, min_size=3, max_size=5),
    attribution_hours=st.sampled_from([1, 5, 24, 40]),
    lateness_hours=st.sampled_from([0, 6, 30]),
    until=st.none() | days,
)
def test_runs_whenever_they_come_leave_the_rows_of_a_replay(
    files: list[tuple[list[tuple[int, float]], list[tuple[int, float]], bool]],
    attribution_hours: int,
    lateness_hours: int,
    until: float | None,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def system(name: str) -> Das:
            das = small_das(root / name, allowed_lateness=lateness_hours * 3600)
            return clicks_only(das, attribution_window=attribution_hours * 3600)

        log, daily, replayed = SmallLog(root / "log"), system("daily"), system("replayed")
        for number, (shown, reactions, is_run) in enumerate(files):
            log.react(f"{number}", *reactions)
            log.show(f"{number}", *shown)
            if is_run:
                run(daily, log)
        for das in (daily, replayed):
            run(das, log, until=until)
        assert_same(rows_of(daily), rows_of(replayed))
        for account in accounts(LogState.of(daily)):
            account.require_balance()
