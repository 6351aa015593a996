"""Columns that come and go, and what the log says of a file's."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from work import COLUMNS, log_of, rows

from exfm.artifact.stores import join
from exfm.errors import StorageError
from exfm.tables.commit import commit, stage
from exfm.tables.statistics import file_statistics
from exfm.tables.table import Table

WIDER = {**COLUMNS, "score": pl.Float64()}


@pytest.fixture
def table(root: str) -> Table:
    """Return a table with one window."""
    table = Table(join(root, "tables", "labels"), COLUMNS)
    commit(table, [stage(table, rows(1), window=1)], item="labels/1", replaces=1)
    return table


def scored(*keys: int) -> pl.DataFrame:
    return rows(*keys).with_columns(score=pl.lit(0.5))


@pytest.mark.parametrize("root", ["disk", pytest.param("bucket", marks=pytest.mark.slow)], indirect=True)
def test_a_column_that_is_new_is_null_in_older_windows_for_any_reader(table: Table) -> None:
    wider = Table(table.uri, WIDER)
    assert wider.state().read([1])["score"].to_list() == [None], "before its first commit, too"
    assert commit(wider, [stage(wider, scored(2), window=2)], item="labels/2", replaces=2)
    assert wider.state().read([1, 2]).sort("key")["score"].to_list() == [None, 0.5]
    assert wider.state().columns == WIDER
    options = None if table.uri.startswith("/") else {"aws_allow_http": "true"}
    others = pl.scan_delta(table.uri, storage_options=options).sort("key").collect()
    assert others["score"].to_list() == [None, 0.5]


def test_a_column_is_added_once_and_by_no_item_that_is_done(table: Table) -> None:
    steps: list[str] = []
    wider = Table(table.uri, WIDER, steps.append)
    assert not commit(wider, [stage(wider, scored(1), window=1)], item="labels/1", replaces=1)
    for window in (2, 3):
        assert commit(wider, [stage(wider, scored(window), window=window)], item=f"labels/{window}", replaces=window)
    assert steps.count("add columns to labels") == 1


def test_a_column_that_another_process_adds_meanwhile_is_added_once(table: Table) -> None:
    others: list[bool] = []

    def on_step(name: str) -> None:
        if name.startswith("add") and not others:
            wider = Table(table.uri, WIDER)
            others.append(commit(wider, [stage(wider, scored(2), window=2)], item="labels/2", replaces=2))

    late = Table(table.uri, WIDER, on_step)
    assert commit(late, [stage(late, scored(3), window=3)], item="labels/3", replaces=3)
    assert [
        len(json.loads(action["metaData"]["schemaString"])["fields"])
        for action in log_of(table.uri)
        if "metaData" in action
    ] == [4, 5]
    assert late.state().read([2, 3])["score"].to_list() == [0.5, 0.5]


def test_a_column_that_is_gone_is_not_written_and_not_read(table: Table) -> None:
    narrow = Table(table.uri, {name: dtype for name, dtype in COLUMNS.items() if name != "tags"})
    assert commit(narrow, [stage(narrow, rows(2), window=2)], item="labels/2", replaces=2)
    path = narrow.state().files[2][0].path
    assert pl.read_parquet_schema(join(table.uri, path)).keys() == narrow.columns.keys()
    assert narrow.state().read([1, 2], columns=[*narrow.columns]).sort("key").equals(rows(1, 2).drop("tags"))
    assert pl.scan_delta(table.uri).sort("key").collect()["tags"].to_list() == [["1"], None]


def test_a_column_of_another_type_is_refused_and_named(table: Table) -> None:
    other = Table(table.uri, {**COLUMNS, "tags": pl.String()})
    staged = [stage(other, rows(2).with_columns(tags=pl.lit("2")), window=2)]
    with pytest.raises(
        StorageError, match=r"labels: column 'tags' is .*there, and .*string.* now; give it another name"
    ):
        commit(other, staged, item="labels/2", replaces=2)
    assert table.state().revision("labels/2") == 0


EDGE = datetime(2026, 1, 1, tzinfo=UTC)


def times(*micros: int | None) -> pl.DataFrame:
    return pl.DataFrame({"time": micros}, schema={"time": pl.Int64()}).cast({"time": pl.Datetime("us", "UTC")})


def test_bounds_of_numbers_and_times_are_known_without_opening_a_file() -> None:
    micros = [int((EDGE + timedelta(microseconds=each)).timestamp() * 1_000_000) for each in (1_500, 2_001)]
    found = json.loads(file_statistics(times(*micros, None).with_columns(key=pl.Series([3, -(2**60), 5]))))
    assert found == {
        "numRecords": 3,
        "minValues": {"time": "2026-01-01T00:00:00.001Z", "key": -(2**60)},
        "maxValues": {"time": "2026-01-01T00:00:00.003Z", "key": 5},
    }


@pytest.mark.parametrize("rows", [times(), times(None), times(2**62), times(0, -(2**62)), pl.DataFrame({"x": ["a"]})])
def test_columns_without_bounds_that_engines_can_read_have_none(rows: pl.DataFrame) -> None:
    assert json.loads(file_statistics(rows)) == {"numRecords": rows.height, "minValues": {}, "maxValues": {}}


@pytest.mark.parametrize("micros", [-62_135_596_800_000_000, 253_402_300_799_999_999])
def test_a_table_with_extreme_times_can_be_read(root: str, micros: int) -> None:
    table = Table(join(root, "tables", "late"), {"time": pl.Datetime("us", "UTC")})
    commit(table, [stage(table, times(micros), window=1)], item="late/1")
    assert table.state().read([1]).drop("window").equals(times(micros))
    assert pl.scan_delta(table.uri).drop("window").collect().equals(times(micros))


def test_engines_skip_files_by_their_bounds(root: str) -> None:
    table = Table(join(root, "tables", "impressions"), COLUMNS)
    staged = [stage(table, rows(86_400 * day), window=1) for day in (1, 2)]
    commit(table, staged, item="ingest/1")
    Path(table.uri, staged[0].path).write_bytes(b"whoever reads this fails")
    of_day_2 = pl.scan_delta(table.uri).filter(pl.col("time") > EDGE + timedelta(days=1, hours=12))
    assert of_day_2.collect()["key"].to_list() == [2 * 86_400]


def test_what_a_log_says_is_read_without_pandas_which_takes_long_to_load(table: Table) -> None:
    code = (
        "import sys; from exfm.tables.table import Table\n"
        "state = Table(sys.argv[1], {}).state(); print(len(state.columns), len(state.files), 'pandas' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code, table.uri], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(len(COLUMNS)), "1", "False"]
