"""One version of the table of examples, read a window at a time."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click_schema import SCHEMA

from exfm.artifact.manifest import Window
from exfm.errors import StorageError
from exfm.events.examples import ExampleTable
from exfm.schema import Schema
from exfm.tables.commit import commit, stage
from exfm.tables.reference import TableRef
from exfm.tables.table import Table

ORDINAL = Schema.parse(SCHEMA.to_dict() | {"event_time": {"column": "time", "kind": "ordinal"}}, source="test")
COLUMNS: dict[str, Any] = {
    "id": pl.Int64(), "time": pl.Datetime("us", "UTC"), "domain": pl.String(), "item": pl.Int64(),
    "label.click": pl.Int8(),
}  # fmt: skip
LENGTH = 100
ROWS = [(5, 0, "a", 1, 0), (2, 7, "a", 2, 1), (4, 3, "b", 3, 0), (3, 7, "b", 4, 1), (1, 3, "c", 5, 0)]
"""Key, seconds after the window's start, domain, item and label, in the order of the table: by domain."""


def put(table: Table, index: int, rows: list[tuple[Any, ...]] = ROWS) -> None:
    """Commit rows as a window of the table."""
    frame = pl.DataFrame(rows, schema=COLUMNS | {"time": pl.Int64()}, orient="row")
    times = pl.col("time") + index * LENGTH
    if table.columns["time"].is_temporal():
        times = pl.from_epoch(times, time_unit="s").dt.cast_time_unit("us").dt.replace_time_zone("UTC")
    commit(table, [stage(table, frame.with_columns(times), window=index)], item=f"examples/{index}")


def window(index: int) -> Window:
    return Window(index=index, start=index * LENGTH, end=(index + 1) * LENGTH)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Return a table with two windows, of which the later one came first."""
    table = Table(str(tmp_path / "examples"), COLUMNS)
    put(table, 7)
    put(table, 3, [(9, 50, "a", 1, 1)])
    return table


@pytest.fixture
def examples(table: Table) -> ExampleTable:
    return ExampleTable(table.state(), SCHEMA, LENGTH)


def test_its_windows_are_in_order_of_time_and_in_the_schemas_unit(examples: ExampleTable) -> None:
    assert examples.windows == (window(3), window(7))
    assert examples.num_examples() == 6


def test_it_tells_its_columns(examples: ExampleTable) -> None:
    assert list(examples.columns) == list(COLUMNS)


def test_rows_are_in_order_of_time_then_of_key_and_time_is_in_whole_seconds(examples: ExampleTable) -> None:
    rows = examples.read(window(7))
    assert rows.columns == list(COLUMNS)
    assert rows.select("id", "time").rows() == [(5, 700), (1, 703), (4, 703), (2, 707), (3, 707)]


def test_ordinal_time_stays_as_it_is(tmp_path: Path) -> None:
    table = Table(str(tmp_path), COLUMNS | {"time": pl.Int64()})
    put(table, 2)
    rows = ExampleTable(table.state(), ORDINAL, LENGTH).read(window(2))
    assert rows["time"].to_list() == [200, 203, 203, 207, 207]


@pytest.mark.parametrize(
    ("domains", "keys"), [((), [5, 1, 4, 2, 3]), (("b",), [4, 3]), (("c", "a"), [5, 1, 2]), (("none",), [])]
)
def test_a_slice_has_the_rows_of_its_domains(examples: ExampleTable, domains: tuple[str, ...], keys: list[int]) -> None:
    assert examples.read(window(7), domains=domains)["id"].to_list() == keys


def test_columns_are_those_that_are_named_in_the_same_order_of_rows(examples: ExampleTable) -> None:
    rows = examples.read(window(7), domains=["a", "b"], columns=["label.click", "item"])
    assert rows.columns == ["label.click", "item"]
    assert rows["item"].to_list() == [1, 3, 2, 4]


def test_a_version_stays_what_it_is(table: Table, examples: ExampleTable) -> None:
    version = table.state().version
    put(table, 8)
    assert examples.windows == (window(3), window(7))
    before = ExampleTable(TableRef(table=table.uri, version=version).state(), SCHEMA, LENGTH)
    assert before.windows == examples.windows
    assert ExampleTable(table.state(), SCHEMA, LENGTH).windows[-1] == window(8)


def test_a_window_without_examples_has_the_columns_of_the_others(examples: ExampleTable) -> None:
    rows = examples.read(window(5))
    assert rows.is_empty()
    assert rows.columns == list(COLUMNS)


def test_a_file_that_is_gone_is_told_with_the_table_and_its_version(table: Table, examples: ExampleTable) -> None:
    for file in Path(table.uri).glob("window=7/*.parquet"):
        file.unlink()
    with pytest.raises(StorageError, match=rf"{table.uri}, version 2: .*Run the stage again that named this version"):
        examples.read(window(7))
