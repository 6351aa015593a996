"""Pseudo-labels know nothing of the time they speak of, and no window waits for ever."""

from pathlib import Path

import polars as pl
import pytest
from growing_log import DAY_S
from polars.testing import assert_frame_equal
from small_log import read, run, small_das
from taught_log import DAYS, ROWS_A_DAY, train, write_week

from exfm.artifact.storage import Ref
from exfm.das.closing import LogState
from exfm.das.log_tables import Das
from exfm.das.revisions import rescore
from exfm.das.scoring import teaching
from exfm.schema import pseudo_age_column, pseudo_label_column, pseudo_snapshot_column

pytestmark = pytest.mark.slow

TASKS = ["click", "stay"]


def snapshots(das: Das) -> dict[int, int | None]:
    """Return the last window that the snapshot had learned which scored each window."""
    rows = read(das, "pseudo_labels", ["window", "snapshot"]).unique().sort("window")
    assert rows["window"].is_unique().all()
    return {window: learned(version) for window, version in rows.iter_rows()}


def learned(version: str | None) -> int | None:
    return None if version is None else int(version.rpartition("-")[2])


def windows(das: Das, table: str) -> list[int]:
    return sorted(das.table(table, {}).state().files)


@pytest.fixture(scope="module")
def early_foundation(tmp_path_factory: pytest.TempPathFactory) -> Ref:
    """Return the foundation model as it was after four days: it has learned two of them, and knows nothing later."""
    folder = tmp_path_factory.mktemp("early")
    return train(write_week(folder / "log", days=4), folder)


def test_feedback_from_a_windows_start_on_changes_no_bit_of_its_pseudo_labels(tmp_path: Path, foundation: Ref) -> None:
    window, found = 4, []
    for name, ref, flip_from in (("plain", foundation, DAYS), ("flipped", None, window)):
        log = write_week(tmp_path / name / "log", flip_from=flip_from)
        das = small_das(tmp_path / name / "root")
        run(das, log, fm=ref or train(log, tmp_path / name))
        found.append(read(das, "pseudo_labels").sort("id"))
    plain, flipped = (rows.filter(pl.col("window") <= window) for rows in found)
    assert plain.filter(pl.col("window") == window).drop_nulls().height == ROWS_A_DAY
    assert_frame_equal(flipped, plain, check_exact=True)
    plain, flipped = (rows.filter(pl.col("window") == window + 1).select(TASKS) for rows in found)
    assert not plain.equals(flipped)


def test_a_window_is_scored_as_soon_as_its_impressions_are_complete(tmp_path: Path, foundation: Ref) -> None:
    log, das = write_week(tmp_path / "log", days=5), small_das(tmp_path / "root")
    run(das, log, fm=foundation)
    assert windows(das, "labels") == [0, 1, 2]
    assert windows(das, "pseudo_labels") == [0, 1, 2, 3]
    assert snapshots(das)[3] == 1


def test_each_unique_impression_is_scored_once(tmp_path: Path, foundation: Ref) -> None:
    log, das = write_week(tmp_path / "log", repeat=True), small_das(tmp_path / "root")
    run(das, log, fm=foundation)
    assert read(das, "impressions").height == DAYS * (ROWS_A_DAY + 1)
    scored = read(das, "pseudo_labels")
    assert scored["id"].is_unique().all()
    assert scored.height == (DAYS - 1) * ROWS_A_DAY


def test_a_snapshot_scores_what_was_shown_after_all_that_it_knows(tmp_path: Path, foundation: Ref) -> None:
    log = write_week(tmp_path / "log")
    for days, expected in ((0, 2), (1, 1), (3, None)):
        das = small_das(tmp_path / f"late-{days}", allowed_lateness=days * DAY_S)
        run(das, log, fm=foundation, until=DAYS)
        assert snapshots(das)[4] == expected
        scored = read(das, "examples").drop_nulls(pseudo_age_column("fm"))
        assert (scored[pseudo_age_column("fm")] >= days * DAY_S).all()


def test_the_same_run_with_all_snapshots_and_daily_runs_agree(tmp_path: Path, foundation: Ref) -> None:
    replayed, daily = small_das(tmp_path / "replayed"), small_das(tmp_path / "daily")
    run(replayed, write_week(tmp_path / "log"), fm=foundation)
    for days in range(1, DAYS + 1):
        run(daily, write_week(tmp_path / "daily-log", days=days), fm=foundation)
    for table in ("pseudo_labels", "examples"):
        assert_frame_equal(read(daily, table).sort("id"), read(replayed, table).sort("id"))


def test_a_window_waits_for_a_newer_snapshot_until_its_wait_is_over(tmp_path: Path, early_foundation: Ref) -> None:
    log = write_week(tmp_path / "log")
    waiting = small_das(tmp_path / "waiting", fm_wait=DAY_S)
    run(waiting, log, fm=early_foundation)
    assert snapshots(waiting) == {0: None, 1: None, 2: 0, 3: 1, 4: 1}
    assert windows(waiting, "labels") == [0, 1, 2, 3, 4]
    patient = small_das(tmp_path / "patient", fm_wait=9 * DAY_S)
    run(patient, log, fm=early_foundation)
    assert sorted(snapshots(patient)) == [0, 1, 2, 3]
    assert windows(patient, "examples") == [0, 1, 2, 3]


def test_a_newer_snapshot_ends_the_wait(tmp_path: Path, foundation: Ref, early_foundation: Ref) -> None:
    log, das = write_week(tmp_path / "log"), small_das(tmp_path / "root", fm_wait=9 * DAY_S)
    run(das, log, fm=early_foundation)
    run(das, log, fm=foundation)
    assert snapshots(das)[4] == 2
    assert windows(das, "examples") == [0, 1, 2, 3, 4]


def test_a_snapshot_that_is_too_old_scores_nothing(tmp_path: Path, early_foundation: Ref) -> None:
    log, das = write_week(tmp_path / "log"), small_das(tmp_path / "root", fm_wait=0, max_age=DAY_S)
    run(das, log, fm=early_foundation)
    assert snapshots(das) == {0: None, 1: None, 2: 0, 3: 1, 4: 1, 5: None}


def test_without_a_foundation_model_examples_flow_after_the_wait_and_are_scored_later(
    tmp_path: Path, foundation: Ref
) -> None:
    log, das = write_week(tmp_path / "log"), small_das(tmp_path / "root", fm_wait=2 * DAY_S)
    run(das, log, fm=None)
    assert windows(das, "labels") == [0, 1, 2, 3, 4]
    assert windows(das, "examples") == [0, 1, 2, 3]
    assert set(snapshots(das).values()) == {None}
    before = read(das, "examples")
    assert before[pseudo_label_column("fm", "click")].null_count() == before.height

    with teaching(foundation, LogState.of(das)) as teacher:
        assert teacher is not None
        assert list(rescore(das, "fm", teacher)) == [2, 3]
        assert list(rescore(das, "fm", teacher)) == []
    run(das, log, fm=foundation)
    state = LogState.of(das)
    assert {window: state.pseudo_labels.newest_revision(window, part="fm") for window in range(6)} == {
        0: 1, 1: 1, 2: 2, 3: 2, 4: 1, 5: 1,
    }  # fmt: skip
    after = read(das, "examples")
    assert after["id"].is_unique().all()
    scored = after.filter(pl.col("window") >= 2)
    assert scored[pseudo_label_column("fm", "click")].null_count() == 0
    assert {learned(version) for version in scored[pseudo_snapshot_column("fm")]} == {0, 1, 2}
    others = [column for column in before.columns if not column.startswith("pseudo")]
    assert_frame_equal(after.filter(pl.col("window") < 4).select(others).sort("id"), before.select(others).sort("id"))
