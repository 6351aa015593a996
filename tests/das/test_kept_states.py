"""States of models that are not kept go, and the days after are as if all were there."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from growing_log import SCHEMA
from polars.testing import assert_frame_equal
from small_log import SmallLog, read, small_das
from taught_log import DAYS, FOUNDATION, write_week

from exfm.das.advance import advance
from exfm.das.closing import LogState
from exfm.das.line_states import LineStates
from exfm.das.log_tables import Das
from exfm.das.publishing import model_manifest
from exfm.foundation.line import foundation_line
from exfm.training.line import Line

pytestmark = pytest.mark.slow

KEPT = 1


@pytest.fixture(scope="module")
def line() -> Line:
    return foundation_line(FOUNDATION, SCHEMA)


def run_daily(folder: Path, line: Line, *, keep_snapshots: int) -> Das:
    """Return a system that ran after each day of a week."""
    week, arrived = write_week(folder / "week"), SmallLog(folder / "log")
    das = small_das(folder / "root")
    das = replace(das, config=das.config.model_copy(update={"keep_snapshots": keep_snapshots}))
    for day in range(DAYS):
        for part in ("feedback", "impressions"):
            arrived.write(part, f"day-{day}", pl.read_parquet(week.folder / part / f"day-{day}.parquet"))
        list(advance(das, arrived.source, foundation_models={line.name: line}))
    return das


def states(das: Das, line: Line) -> set[int]:
    return {int(folder.name) for folder in Path(das.root, "models", line.name, line.digest).iterdir()}


def test_states_that_nothing_needs_go_and_the_days_after_stay_the_same(tmp_path: Path, line: Line) -> None:
    kept, all_kept = (run_daily(tmp_path / str(keep), line, keep_snapshots=keep) for keep in (KEPT, 0))
    learned = LineStates(LogState.of(kept), line).learned
    assert learned == sorted(states(all_kept, line))
    assert states(kept, line) == set(learned[-2:])  # the newest, and one that a late window may need
    assert len(learned) > 2
    for table in ("pseudo_labels", "predictions"):
        assert_frame_equal(*(read(das, table).sort("window", "id") for das in (kept, all_kept)))
    manifest = model_manifest(kept, line)
    assert {snapshot.window for snapshot in manifest.snapshots} == states(kept, line)
    assert manifest.overall == model_manifest(all_kept, line).overall
    for window in range(DAYS + 2):
        snapshot = LineStates(LogState.of(kept), line).for_window(window)
        assert snapshot is None or Path(snapshot.folder).is_dir()
