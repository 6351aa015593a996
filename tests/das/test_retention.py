"""Old windows are removed once, and what is kept is as if none were."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from growing_log import GrowingLog, das_at
from polars.testing import assert_frame_equal
from test_lines import FM, VM, rows, states

from exfm.das.advance import advance, learn, teach
from exfm.das.closing import LogState, accounts
from exfm.das.config import DasConfig
from exfm.das.log_tables import Das
from exfm.das.progress import progress
from exfm.das.retention import OTHERS
from exfm.das.revisions import relabel
from exfm.das.stages import ingest, join, label, remove
from exfm.das.verification import verify
from exfm.errors import ConfigError
from exfm.tables.table import OnStep
from exfm.tables.vacuum import vacuum

LOG = {"days": 9, "rows_a_day": 20}


def keeping(root: Path, *, keep_windows: int = 4, on_step: OnStep = lambda step: None) -> Das:
    das = das_at(root, on_step=on_step)
    return replace(das, config=das.config.model_copy(update={"keep_windows": keep_windows}))


def run(das: Das, log: GrowingLog) -> list[tuple[str, str]]:
    return [(done.stage, done.item) for done in advance(das, log.source, foundation_models={})]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> GrowingLog:
    log = GrowingLog(tmp_path_factory.mktemp("log"), **LOG)
    log.arrive_all()
    return log


@pytest.fixture(scope="module")
def whole(log: GrowingLog, tmp_path_factory: pytest.TempPathFactory) -> LogState:
    """Return a replay that keeps all."""
    das = das_at(tmp_path_factory.mktemp("whole"))
    run(das, log)
    return LogState.of(das)


@pytest.fixture(scope="module")
def kept(log: GrowingLog, tmp_path_factory: pytest.TempPathFactory) -> Das:
    """Return a replay that keeps some windows."""
    das = keeping(tmp_path_factory.mktemp("kept"))
    assert [item for stage, item in run(das, log) if stage == "remove"] == [
        f"1970-01-0{day}T00:00:00Z" for day in (1, 2, 3)
    ]
    return das


def assert_newest(state: LogState, whole: LogState) -> None:
    first = min(state.examples.files)
    for name in ("impressions", *OTHERS, "late", "rejected", "report", "arrivals"):
        found, expected = getattr(state, name), getattr(whole, name)
        least = first - (name == "impressions") if name in ("impressions", *OTHERS) else min(expected.files)
        assert set(found.files) == {window for window in expected.files if window >= least}
        rows = [table.read(found.files).drop("file", strict=False) for table in (found, expected)]
        known = ("window", "arrival", "row", "id", "figure", "of", "name", "part")
        places = [column for column in known if column in rows[0].columns]
        assert_frame_equal(*(one.sort(places) for one in rows))


def test_a_replay_ends_with_the_newest_windows_of_one_that_keeps_all(kept: Das, whole: LogState) -> None:
    state = LogState.of(kept)
    assert len(whole.examples.files) > 4
    assert len(state.examples.files) >= 4
    assert_newest(state, whole)


def test_fewer_windows_than_models_need_are_refused() -> None:
    with pytest.raises(ConfigError, match="keep_windows is 3, expected at least 4"):
        DasConfig.parse({"keep_windows": 3}, source="the test")


def test_run_again_it_does_nothing(kept: Das, log: GrowingLog) -> None:
    steps: list[str] = []
    assert run(replace(kept, on_step=steps.append), log) == []
    assert steps == []


def test_daily_runs_end_as_a_replay_does(tmp_path: Path, whole: LogState) -> None:
    log, das = GrowingLog(tmp_path / "log", **LOG), keeping(tmp_path / "root")
    removed = []
    for day in range(log.days):
        log.arrive(day)
        removed += [item for stage, item in run(das, log) if stage == "remove"]
    assert len(removed) == len(set(removed)) == 3
    assert_newest(LogState.of(das), whole)


def test_a_run_that_is_stopped_at_any_removal_goes_on(tmp_path: Path, log: GrowingLog, whole: LogState) -> None:
    run(keeping(tmp_path, keep_windows=0), log)

    class Stopped(BaseException):
        pass

    stops = 0
    while True:
        seen = 0

        def stop_at_second(step: str) -> None:
            nonlocal seen
            seen += 1
            if seen == 2:
                raise Stopped

        try:
            done = run(keeping(tmp_path, on_step=stop_at_second), log)
        except Stopped:
            stops += 1
            continue
        break
    assert stops > 5
    assert {stage for stage, _ in done} <= {"remove"}
    assert_newest(LogState.of(keeping(tmp_path)), whole)


def test_removed_rows_stay_in_the_accounts(kept: Das, log: GrowingLog, whole: LogState) -> None:
    found, expected = (list(accounts(state)) for state in (LogState.of(kept), whole))
    assert sum(account.removed for account in found) > 0
    for account, same in zip(found, expected, strict=True):
        account.require_balance()
        assert (account.arrived, account.late, account.rejected, account.pending, account.states) == (
            same.arrived, same.late, same.rejected, same.pending, same.states,
        )  # fmt: skip
        assert account.stored + account.removed == same.stored
    assert {stage.due for stage in progress(kept, log.source, foundation_models={}).stages} == {0}


def test_each_window_that_is_kept_can_be_verified_and_labelled_again(kept: Das) -> None:
    state = LogState.of(kept)
    found = verify(kept, foundation_models={}, num_windows=100, seed=0)
    verified = [one.window for one in found if one.table == "examples"]
    assert verified == sorted(state.labels.files)


def test_relabelling_leaves_removed_windows_alone(tmp_path: Path, log: GrowingLog) -> None:
    das = keeping(tmp_path)
    run(das, log)
    before = set(LogState.of(das).labels.files)
    assert set(relabel(das)) <= before
    run(das, log)
    assert set(LogState.of(das).examples.files) == before


def test_a_vacuum_removes_only_what_no_kept_version_has(tmp_path: Path, log: GrowingLog) -> None:
    das = keeping(tmp_path)
    run(das, log)
    table = das.table("examples", LogState.of(das).examples.columns)
    rows = table.state().read(table.state().files)

    def files() -> set[Path]:
        return set((tmp_path / "tables/examples").glob("window=*/*.parquet"))

    before = files()
    vacuum(table, keep_s=3600)
    assert files() == before
    for _ in range(2):
        vacuum(table, keep_s=0)
        assert len(files()) == len(before) - 3
        assert_frame_equal(table.state().read(table.state().files), rows)


@pytest.mark.slow
def test_a_window_stays_until_each_model_of_the_run_has_learned_it(tmp_path: Path) -> None:
    log, das = GrowingLog(tmp_path / "log", **LOG), keeping(tmp_path / "kept")
    log.arrive_all()
    never = replace(VM, name="never")
    for _ in (*ingest(das, log.source), *label(das), *teach(das, "fm", FM), *join(das, ["fm"]), *learn(das, VM)):
        pass
    all_windows = set(LogState.of(das).examples.files)
    assert list(remove(das, [FM, VM, never])) == []
    assert set(LogState.of(das).examples.files) == all_windows
    list(learn(das, never))
    done = list(remove(das, [FM, VM, never]))
    assert {one.stage for one in done} == {"remove"}
    snapshots = rows(das, "snapshots").filter(model="never")
    assert set(snapshots["window"]) == all_windows > set(LogState.of(das).examples.files)


@pytest.mark.slow
def test_a_model_whose_domain_has_no_example_keeps_nothing(tmp_path: Path) -> None:
    log, das = GrowingLog(tmp_path / "log", **LOG), keeping(tmp_path / "kept")
    log.arrive_all()
    none = replace(VM, name="none", domains=("nobody",))
    done = list(advance(das, log.source, foundation_models={"fm": FM}, vertical_models=[VM, none]))
    assert len([one for one in done if one.stage == "remove"]) == 3
    assert list(advance(das, log.source, foundation_models={"fm": FM}, vertical_models=[VM, none])) == []


@pytest.mark.slow
def test_models_go_on_as_if_no_window_were_removed(tmp_path: Path) -> None:
    log = GrowingLog(tmp_path / "log", **LOG)
    das, whole = keeping(tmp_path / "kept"), das_at(tmp_path / "whole")
    removed = []
    for day in range(log.days):
        log.arrive(day)
        done = [advance(one, log.source, foundation_models={"fm": FM}, vertical_models=[VM]) for one in (das, whole)]
        removed += [item.item for item in done[0] if item.stage == "remove"]
        list(done[1])
    assert len(removed) == 3
    assert states(das) == states(whole)
    assert rows(das, "snapshots").equals(rows(whole, "snapshots"))
    for table in ("pseudo_labels", "examples", "predictions"):
        found = rows(das, table)
        assert found.equals(rows(whole, table).filter(pl.col("window") >= found["window"].min()))
    assert list(advance(das, log.source, foundation_models={"fm": FM}, vertical_models=[VM])) == []
