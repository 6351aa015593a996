"""Tables that another program changed are found, whichever it changed."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from growing_log import GrowingLog, das_at
from small_log import run, small_das
from taught_log import write_week

from exfm.artifact.storage import Ref
from exfm.das.advance import advance
from exfm.das.log_tables import Das
from exfm.das.revisions import relabel
from exfm.das.verification import verify
from exfm.errors import DataError, StorageError

pytestmark = pytest.mark.slow


@pytest.fixture
def das(tmp_path: Path, foundation: Ref) -> Das:
    """Return a system with five closed windows."""
    das = small_das(tmp_path / "root")
    run(das, write_week(tmp_path / "log", repeat=True), fm=foundation)
    return das


def check(das: Das, foundation: Ref | None, *, num_windows: int = 99, seed: int = 0) -> list[tuple[str, int, int]]:
    found = verify(das, foundation_models={"fm": foundation}, num_windows=num_windows, seed=seed)
    return [(one.table, one.window, one.num_rows) for one in found]


def change(das: Das, table: str, window: int, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Change one file of a table, as another program may."""
    [path] = (Path(das.root) / "tables" / table / f"window={window}").glob("*.parquet")
    change(pl.read_parquet(path, hive_partitioning=False)).write_parquet(path)


def test_tables_that_nobody_changed_agree(das: Das, foundation: Ref) -> None:
    assert check(das, foundation) == [
        (table, window, 40) for table in ("labels", "pseudo_labels of fm", "examples") for window in range(5)
    ]


def test_the_seed_chooses_the_windows(das: Das, foundation: Ref) -> None:
    chosen = {tuple(window for _, window, _ in check(das, foundation, num_windows=2, seed=seed)) for seed in range(5)}
    assert len(chosen) > 1
    assert {len(set(windows)) for windows in chosen} == {2}


@pytest.mark.parametrize(
    ("table", "column", "message"),
    [
        ("labels", "label.click", "table labels, window from 1970-01-04T00:00:00Z: 1 of 40 rows differ"),
        ("pseudo_labels", "click", "table pseudo_labels of fm, window from 1970-01-04T00:00:00Z: 1 of 40 rows differ"),
        ("examples", "pseudo.fm.stay", "table examples, window from 1970-01-04T00:00:00Z: 1 of 40 rows differ"),
        ("examples", "item", "table examples, window from 1970-01-04T00:00:00Z: 1 of 40 rows differ"),
    ],
)
def test_one_value_that_changed_is_found(das: Das, foundation: Ref, table: str, column: str, message: str) -> None:
    other = pl.when(pl.int_range(pl.len()) == 7).then(1 - pl.col(column)).otherwise(pl.col(column))
    change(das, table, 3, lambda rows: rows.with_columns(other.cast(rows.schema[column]).alias(column)))
    with pytest.raises(DataError, match=message):
        check(das, foundation)


@pytest.mark.parametrize("table", ["labels", "examples"])
def test_a_row_that_is_there_twice_is_found(das: Das, foundation: Ref, table: str) -> None:
    change(das, table, 3, lambda rows: pl.concat([rows, rows.head(1)]))
    with pytest.raises(DataError, match=f"table {table}, window from 1970-01-04.*: 0 of 40 rows differ .* 41 rows"):
        check(das, foundation)


@pytest.mark.parametrize("table", ["impressions", "feedback", "labels", "pseudo_labels", "examples"])
def test_a_file_that_is_gone_is_found(das: Das, foundation: Ref, table: str) -> None:
    [path] = (Path(das.root) / "tables" / table / "window=3").glob("*.parquet")
    path.unlink()
    with pytest.raises(StorageError, match=f"tables/{table}"):
        check(das, foundation)


def test_windows_that_were_relabelled_are_left_out(tmp_path: Path) -> None:
    log, das = GrowingLog(tmp_path / "log", days=6, rows_a_day=30), das_at(tmp_path / "root")
    log.arrive_all()
    list(advance(das, log.source, foundation_models={}))
    before = {window for _, window, _ in check(das, None)}
    changed = set(relabel(das))
    list(advance(das, log.source, foundation_models={}))
    assert changed
    assert {window for _, window, _ in check(das, None)} == before - changed
