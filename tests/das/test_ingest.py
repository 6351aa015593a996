"""What files may be, and what they may not: one error each, and nothing of the file is then there."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from growing_log import DAY_S
from polars.testing import assert_frame_equal
from small_log import SmallLog, account, clicks_only, days, read, run, small_das

from exfm.artifact.source_files import FoundFile
from exfm.das.advance import ingest
from exfm.das.closing import LogState
from exfm.das.log_tables import Das
from exfm.das.stages import POLL_S, wait_for_files
from exfm.errors import DataError, StorageError
from exfm.events import source_files


@pytest.fixture
def log(tmp_path: Path) -> SmallLog:
    """Return a log of one day with one click."""
    log = SmallLog(tmp_path / "log")
    log.show("1", (1, 0.1), (2, 0.9))
    log.react("1", (1, 0.2))
    return log


@pytest.fixture
def das(tmp_path: Path) -> Das:
    return small_das(tmp_path / "root")


def tables_of(das: Das) -> set[Path]:
    return {path for path in Path(das.root).rglob("*") if path.is_file()}


def assert_refused(das: Das, log: SmallLog, message: str) -> None:
    """Assert that a run ends with this error, and commits nothing."""
    before = tables_of(das)
    with pytest.raises(DataError, match=message) as raised:
        run(das, log)
    assert "\n" not in str(raised.value)
    assert tables_of(das) == before


def test_a_file_that_changed_is_refused(das: Das, log: SmallLog) -> None:
    run(das, log)
    log.show("1", (1, 0.1), (2, 0.9), (3, 0.95))
    assert_refused(das, log, "1.parquet had .* bytes when it was ingested, and has .*; write new rows to a new file")


def test_a_file_whose_name_comes_before_is_refused(das: Das, log: SmallLog) -> None:
    run(das, log)
    log.show("0", (3, 0.95))
    assert_refused(das, log, "impressions/0.parquet is new, but its name comes before '1.parquet'")


def test_feedback_of_a_name_whose_impressions_were_ingested_is_refused(das: Das, log: SmallLog) -> None:
    log.show("2", (3, 1.5))
    run(das, log)
    log.react("2", (3, 1.6))
    assert_refused(das, log, "feedback before impressions of the same name")


def test_a_file_with_too_many_bad_rows_is_refused_with_its_reasons(das: Das, log: SmallLog) -> None:
    run(das, log)
    rows = pl.read_parquet(log.show("2", *((key, 1 + key / 100) for key in range(50))))
    bad = rows.with_columns(pl.when(pl.col("id") < 2).then(None).otherwise("domain").alias("domain"))
    log.write("impressions", "2", bad)
    arrived = read(das, "arrivals").height
    with pytest.raises(DataError, match=r"2 of 50 rows \(4.00%\) are rejected, .*: 2 rows, domain: null"):
        run(das, log)
    assert read(das, "arrivals").height == arrived
    run(small_das(das.root, max_rejected=0.04), log)
    assert read(das, "rejected").select("part", "arrival", "row", "key").rows() == [
        ("impressions", "2.parquet", row, str(row)) for row in (0, 1)
    ]


@pytest.mark.parametrize("part", ["impressions", "feedback"])
def test_a_column_of_another_type_than_before_is_refused(das: Das, log: SmallLog, part: str) -> None:
    run(das, log)
    rows = pl.read_parquet(log.show("2", (3, 1.5)) if part == "impressions" else log.react("2", (3, 1.5)))
    log.write(part, "2", rows.cast({"id": pl.String}))
    assert_refused(das, log, f"{part}/2.parquet: column 'id' is String, but Int64 in the files before")


def test_integers_of_another_width_are_of_the_same_type(das: Das, log: SmallLog) -> None:
    log.write("impressions", "2", pl.read_parquet(log.show("2", (3, 1.5))).cast({"item": pl.UInt16}))
    run(das, log)
    assert read(das, "impressions").height == 3


def test_keys_of_one_type_in_feedback_and_of_another_in_impressions_are_refused(das: Das, log: SmallLog) -> None:
    log.write("feedback", "1", pl.read_parquet(log.react("1", (1, 0.2))).cast({"id": pl.String}))
    with pytest.raises(
        DataError, match=r"/impressions/1.parquet: column 'id' is Int64, but String in the files before"
    ):
        run(das, log)


def test_keys_of_another_type_in_later_feedback_are_refused(das: Das, log: SmallLog) -> None:
    (log.folder / "feedback/1.parquet").unlink()
    log.write("feedback", "2", pl.read_parquet(log.react("2", (1, 0.2))).cast({"id": pl.String}))
    with pytest.raises(DataError, match=r"/feedback/2.parquet: column 'id' is String, but Int64 in the files before"):
        run(das, log)


def test_an_empty_file_is_left_until_it_has_something(das: Das, log: SmallLog) -> None:
    (log.folder / "impressions/2.parquet").touch()
    run(das, log)
    assert read(das, "arrivals").height == 2
    log.show("2", (3, 1.5))
    run(das, log)
    assert read(das, "arrivals").height == 3


def test_a_file_that_is_no_parquet_file_is_refused(das: Das, log: SmallLog) -> None:
    (log.folder / "impressions/2.parquet").write_text("id,time\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"impressions/2.parquet is damaged, or no Parquet file"):
        run(das, log)


def test_files_without_rows_arrive_and_change_nothing(das: Das, log: SmallLog) -> None:
    run(das, log)
    before = LogState.of(das).timeline.watermark
    log.show("2")
    log.react("2")
    assert run(das, log) == ["ingest: feedback 2.parquet", "ingest: impressions 2.parquet"]
    assert LogState.of(das).timeline.watermark == before
    assert read(das, "arrivals").sort("name", "part")["num_rows"].to_list() == [1, 2, 0, 0]


def test_a_log_that_begins_with_files_without_rows_goes_on(das: Das, log: SmallLog) -> None:
    log.show("0")
    log.react("0")
    run(das, log)
    run(das, log, until=9)
    assert read(das, "labels")["label.click"].to_list() == [1, 0]


def test_feedback_waits_for_impressions_that_come_after_it(das: Das, log: SmallLog) -> None:
    log.react("0", (3, 1.6))
    run(das, log)
    log.show("2", (3, 1.5))
    log.show("3", (4, 3.5))
    run(das, log)
    assert read(das, "labels").sort("id")["label.click"].to_list() == [1, 0, 1]


def test_a_log_that_begins_with_feedback_waits(das: Das, tmp_path: Path) -> None:
    log = SmallLog(tmp_path / "begun")
    log.react("1", (1, 0.2))
    log.show("2")
    assert run(das, log) == ["ingest: feedback 1.parquet", "ingest: impressions 2.parquet"]
    assert account(das, "feedback", 0).pending == 1
    assert run(das, log) == []


def test_a_log_without_a_click_is_labelled(das: Das, log: SmallLog) -> None:
    log.react("1")
    log.show("2", (3, 2.5))
    run(das, log)
    assert read(das, "examples").select("id", "label.click", "label.stay").rows() == [(1, 0, 0), (2, 0, 0)]


def test_a_log_whose_folder_of_feedback_is_empty_is_an_error(das: Das, log: SmallLog) -> None:
    (log.folder / "feedback/1.parquet").unlink()
    with pytest.raises(StorageError, match="feedback: no file is there"):
        run(das, log)


def test_ordinal_time_leaves_the_rows_of_absolute_time(das: Das, tmp_path: Path, log: SmallLog) -> None:
    log.show("2", (3, 1.5), (4, 0.5))
    log.show("3", (5, 3.5), (7, 3.5), (6, 0.5))
    log.react("3", (6, 0.5), (3, 1.7), (9, 1.7))
    event_time = {"column": "time", "kind": "ordinal"}
    schema = type(das.schema).parse(das.schema.to_dict() | {"event_time": event_time}, source="the test's schema")
    ordinal = Das(root=str(tmp_path / "ordinal"), schema=schema, window_length=DAY_S)
    run(das, log)
    run(ordinal, log)
    for table in ("examples", "labels", "late", "feedback", "das_report"):
        found, expected = read(ordinal, table), read(das, table)
        if "time" in found.columns:
            assert found["time"].dtype == pl.Int64
            expected = expected.with_columns(pl.col("time").dt.epoch("s"))
        assert_frame_equal(found, expected, check_row_order=False)
    assert ordinal.time_text(LogState.of(ordinal).timeline.watermark or 0) == str(int(3.5 * DAY_S))


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_timestamps_of_any_unit_leave_the_rows_of_seconds(
    das: Das, tmp_path: Path, log: SmallLog, unit: pl._typing.TimeUnit, zone: str | None
) -> None:
    stamped = SmallLog(tmp_path / "stamped")
    log.show("2", (3, 2.5))
    for part, name in (("impressions", "1"), ("feedback", "1"), ("impressions", "2")):
        rows = pl.read_parquet(log.folder / part / f"{name}.parquet")
        times = pl.from_epoch("time", time_unit="s").dt.replace_time_zone("UTC").dt.cast_time_unit(unit)
        times = times.dt.convert_time_zone(zone) if zone else times.dt.replace_time_zone(None)
        stamped.write(part, name, rows.with_columns(times))
    other = small_das(tmp_path / "other")
    run(das, log)
    run(other, stamped)
    for table in ("examples", "feedback", "das_report"):
        assert_frame_equal(read(other, table), read(das, table), check_row_order=False)


def test_one_wrong_clock_in_the_far_future_closes_nothing(das: Das, log: SmallLog) -> None:
    log.show("2", *((key, 0.9) for key in range(10, 40)), (40, 3650.0))
    run(das, log)
    assert days(das, LogState.of(das).timeline.watermark) == pytest.approx(0.9)
    assert account(das, "impressions", 0).pending == 32
    assert account(das, "impressions", 3650).pending == 1


def test_an_orphan_three_days_ahead_closes_nothing(das: Das, log: SmallLog) -> None:
    log.react("2", (99, 3.9))
    run(das, log)
    assert days(das, LogState.of(das).timeline.watermark) == pytest.approx(0.1)
    assert account(das, "impressions", 0).pending == 2
    assert account(das, "feedback", 3).pending == 1


def test_allowed_lateness_keeps_a_window_open(tmp_path: Path, log: SmallLog) -> None:
    log.show("2", (3, 1.2))
    log.show("3", (4, 0.5))
    late = {}
    for hours in (0, 12):
        das = small_das(tmp_path / str(hours), allowed_lateness=hours * 3600)
        run(das, log)
        late[hours] = account(das, "impressions", 0).late
    assert late == {0: 1, 12: 0}


def test_a_users_word_completes_a_log(das: Das, log: SmallLog) -> None:
    assert "label: 1970-01-01T00:00:00Z" not in run(das, log)
    assert run(das, log, until=2) == [
        "ingest: complete until 1970-01-03T00:00:00Z",
        "label: 1970-01-01T00:00:00Z",
        "join: 1970-01-01T00:00:00Z",
        "report: 1970-01-01T00:00:00Z",
    ]
    assert run(das, log, until=2) == []
    assert run(das, log, until=1) == []


def test_rows_that_come_after_a_users_word_are_late(das: Das, log: SmallLog) -> None:
    run(das, log, until=2)
    log.react("2", (2, 0.95))
    log.show("2", (3, 0.5))
    run(das, log)
    assert (account(das, "impressions", 0).late, account(das, "feedback", 0).late) == (1, 1)
    assert read(das, "examples").height == 2


def test_a_users_word_before_the_first_impression_says_nothing(das: Das, tmp_path: Path) -> None:
    log = SmallLog(tmp_path / "begun")
    log.react("1", (1, 0.2))
    log.show("1")
    assert run(das, log, until=3) == ["ingest: feedback 1.parquet", "ingest: impressions 1.parquet"]
    log.show("2", (1, 0.1))
    run(das, log)
    assert account(das, "impressions", 0).pending == 1


@pytest.mark.parametrize("day", [0, 1, 2])
def test_feedback_before_its_impression_is_early_whenever_a_run_finds_out(tmp_path: Path, day: int) -> None:
    """The window after is not complete when an attribution window shorter than a window is over."""
    log = SmallLog(tmp_path / "log")
    files = [
        ("1", [(1, 0.1)], [(7, 0.95), (8, 0.95)]),
        ("2", [(7, 1.1), (3, 1.3)], []),
        ("3", [(8, 1.2), (4, 2.9)], []),
    ]
    das = clicks_only(small_das(tmp_path / "root"), attribution_window=3600)
    for at, (name, shown, reactions) in enumerate(files):
        log.show(name, *shown)
        log.react(name, *reactions)
        if at >= day:
            run(das, log)
    states = account(das, "feedback", 0).states or {}
    assert {state: count for state, count in states.items() if count} == {"early": 1, "orphan": 1}


def test_impressions_that_were_not_shown_are_counted_and_never_negatives(das: Das, log: SmallLog) -> None:
    das = replace(das, schema=das.schema.model_copy(update={"shown": "is_shown"}))
    for name, shown, is_shown in (
        ("1", [(key, 0.1) for key in range(6)], [True, False, None, True, False, False]),
        ("2", [(7, 4.5)], [False]),
    ):
        rows = pl.read_parquet(log.show(name, *shown))
        log.write("impressions", name, rows.with_columns(pl.Series("is_shown", is_shown)))
    log.react("1", (0, 0.2), (1, 0.2))
    run(das, log)
    assert read(das, "labels").sort("id").select("id", "label.click").rows() == [(0, 1), (3, 0)]
    assert set(read(das, "impressions")["id"]) == {0, 3}
    assert "is_shown" not in read(das, "impressions").columns
    of_window = account(das, "impressions", 0)
    assert (of_window.arrived, of_window.unshown, of_window.states) == (6, 4, {"examples": 2, "duplicates": 0})
    assert (account(das, "feedback", 0).states or {})["orphan"] == 1
    assert account(das, "impressions", 4).unshown == 1


def test_a_file_of_which_nothing_was_shown_has_arrived(das: Das, log: SmallLog) -> None:
    das = replace(das, schema=das.schema.model_copy(update={"shown": "is_shown"}))
    for name, day in (("1", 0.1), ("2", 4.5)):
        log.write("impressions", name, pl.read_parquet(log.show(name, (1, day))).with_columns(is_shown=pl.lit(False)))
    log.react("1", (1, 0.2))
    run(das, log)
    assert account(das, "impressions", 0).unshown == account(das, "impressions", 4).unshown == 1
    assert run(das, log) == []
    assert read(das, "labels").is_empty()


def test_a_column_of_what_was_shown_that_is_not_bool_is_refused(das: Das, log: SmallLog) -> None:
    das = replace(das, schema=das.schema.model_copy(update={"shown": "item"}))
    with pytest.raises(DataError, match="column 'item' is Int64, expected Boolean"):
        run(das, log)


def test_files_that_have_not_settled_are_taken_later(das: Das, log: SmallLog) -> None:
    unsettled = log.source.model_copy(update={"settle_s": 3_600})
    assert list(ingest(das, unsettled)) == []
    assert [done.item for done in ingest(das, log.source)] == ["feedback 1.parquet", "impressions 1.parquet"]


@pytest.mark.parametrize("text", ["20260131", "2026-01-31", "2026-01-31T00:00", "1769817600"])
def test_a_time_is_a_date_or_seconds(das: Das, text: str) -> None:
    assert das.time_text(das.time_of(text)) == "2026-01-31T00:00:00Z"


def test_files_that_come_while_a_source_is_listed_keep_their_order(
    log: SmallLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = source_files.list_files

    def list_as_files_come(uri: str) -> list[FoundFile]:
        found = listed(uri)
        if "feedback" in uri and not (log.folder / "impressions" / "2.parquet").exists():
            log.react("2", (3, 1.6))
            log.show("2", (3, 1.5))
        return found

    monkeypatch.setattr(source_files, "list_files", list_as_files_come)
    found = source_files.source_files(log.source)
    assert [(file.part, file.name) for file in found] == [
        (part, f"{name}.parquet") for name in (1, 2) for part in ("feedback", "impressions")
    ]


def test_a_wait_ends_with_a_new_file(das: Das, log: SmallLog, monkeypatch: pytest.MonkeyPatch) -> None:
    run(das, log)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            log.show("2", (3, 1.5))

    monkeypatch.setattr("time.sleep", sleep)
    wait_for_files(das, log.source)
    assert waits == [POLL_S] * 2
