"""A replay, daily runs and a run that is stopped anywhere leave the same rows."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from growing_log import GrowingLog, assert_same, das_at, rows_of
from polars.testing import assert_frame_equal

from exfm.das.advance import advance
from exfm.das.closing import LogState, accounts
from exfm.das.revisions import relabel
from exfm.errors import ConfigError

pytestmark = pytest.mark.slow


class Stopped(BaseException):
    """A process that ends at once."""


class StopAt:
    """Stops at the n-th step."""

    def __init__(self, step: int) -> None:
        self._left = step

    def __call__(self, step: str) -> None:
        self._left -= 1
        if self._left == 0:
            raise Stopped


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> GrowingLog:
    log = GrowingLog(tmp_path_factory.mktemp("log"))
    log.arrive_all()
    return log


@pytest.fixture(scope="module")
def replayed(log: GrowingLog, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    das = das_at(tmp_path_factory.mktemp("replay"))
    assert list(advance(das, log.source, foundation_models={}))
    return rows_of(das)


def test_daily_runs_leave_the_rows_of_a_replay(tmp_path: Path, replayed: dict[str, pl.DataFrame]) -> None:
    log, das = GrowingLog(tmp_path / "log"), das_at(tmp_path / "root")
    for day in range(log.days):
        log.arrive(day)
        list(advance(das, log.source, foundation_models={}))
    assert_same(rows_of(das), replayed)


def test_a_run_with_nothing_due_does_nothing(tmp_path: Path, log: GrowingLog) -> None:
    das = das_at(tmp_path)
    list(advance(das, log.source, foundation_models={}))
    steps: list[str] = []
    assert list(advance(das_at(tmp_path, on_step=steps.append), log.source, foundation_models={})) == []
    assert steps == []


def test_a_run_that_is_stopped_over_and_over_leaves_the_rows_of_one(
    tmp_path: Path, log: GrowingLog, replayed: dict[str, pl.DataFrame]
) -> None:
    for step in range(1, 1_000):
        try:
            list(advance(das_at(tmp_path, on_step=StopAt(step)), log.source, foundation_models={}))
            break
        except Stopped:
            continue
    assert step > 10
    assert_same(rows_of(das_at(tmp_path)), replayed)


def test_every_fault_is_in_the_accounts(tmp_path: Path, log: GrowingLog) -> None:
    das = das_at(tmp_path)
    list(advance(das, log.source, foundation_models={}))
    total: Counter[str] = Counter()
    for account in accounts(LogState.of(das)):
        account.require_balance()
        total.update(
            {
                f"{account.part} too late": account.late,
                f"{account.part} rejected": account.rejected,
                f"{account.part} pending": account.pending,
            }
        )
        total.update({f"{account.part} {state}": count for state, count in (account.states or {}).items()})
    assert len(total) == 16
    assert min(total.values()) > 0


def test_relabelling_counts_late_rows_and_joins_again(tmp_path: Path, log: GrowingLog) -> None:
    das = das_at(tmp_path)
    list(advance(das, log.source, foundation_models={}))
    before = LogState.of(das)
    changed = list(relabel(das))
    assert list(relabel(das)) == []
    list(advance(das, log.source, foundation_models={}))
    after = LogState.of(das)
    late = after.late.read(after.late.files).filter(part="impressions")
    assert changed
    assert set(late["window"]) <= set(changed)
    assert {after.labels.newest_revision(window) for window in changed} == {2}
    assert {after.examples.newest_revision(window) for window in changed} == {2}
    examples = after.examples.read(after.examples.files)
    assert set(late["id"]) <= set(examples["id"])
    others = [window for window in before.examples.files if window not in changed]
    assert_frame_equal(before.examples.read(others), after.examples.read(others))


def test_changed_label_rules_are_refused_until_all_windows_are_labelled_again(tmp_path: Path, log: GrowingLog) -> None:
    das = das_at(tmp_path)
    list(advance(das, log.source, foundation_models={}))
    labels = [label.model_copy(update={"positive_from": 1.0}) for label in das.schema.labels]
    other = replace(das, schema=das.schema.model_copy(update={"labels": tuple(labels)}))
    with pytest.raises(ConfigError, match="exfm das relabel"):
        list(advance(other, log.source, foundation_models={}))
    assert len(list(relabel(other))) == len(LogState.of(das).labels.files)
    list(advance(other, log.source, foundation_models={}))
    with pytest.raises(ConfigError, match="exfm das relabel"):
        list(advance(das, log.source, foundation_models={}))
