"""What one commit does to a table."""

import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from work import COLUMNS, commits_of, log_of, rows

from exfm.artifact.stores import join
from exfm.tables.commit import StagedFile, commit, stage
from exfm.tables.table import Table


@pytest.fixture
def table(root: str) -> Table:
    return Table(join(root, "tables", "labels"), COLUMNS)


def keys(table: Table, *windows: int) -> list[int]:
    return table.state().read(windows)["key"].sort().to_list()


def test_a_table_that_is_not_there_has_no_version_and_no_rows(table: Table) -> None:
    state = table.state()
    assert (state.version, state.revision("labels/1"), dict(state.files)) == (-1, 0, {})
    assert state.read([1]).schema == {**COLUMNS, "window": pl.Int64()}


def test_a_replaced_window_has_the_new_rows_only_and_others_stay(table: Table) -> None:
    for window in (1, 2):
        assert commit(table, [stage(table, rows(window), window=window)], item=f"labels/{window}", replaces=window)
    new = [stage(table, rows(7), window=1), stage(table, rows(8), window=1)]
    assert commit(table, new, item="labels/1", revision=2, replaces=1)
    assert (keys(table, 1), keys(table, 2), table.state().num_rows([1, 2])) == ([7, 8], [2], 3)
    assert commit(table, [], item="labels/1", revision=3, replaces=1)
    assert (keys(table, 1, 2), sorted(table.state().files)) == ([2], [2])


def test_added_files_leave_earlier_ones(table: Table) -> None:
    for batch in (1, 2):
        assert commit(table, [stage(table, rows(batch), window=1)], item=f"ingest/{batch}")
    assert keys(table, 1) == [1, 2]


def test_an_item_without_rows_is_done_once(table: Table) -> None:
    assert [commit(table, [], item="labels/1", replaces=1) for _ in range(2)] == [True, False]
    assert table.state().revision("labels/1") == 1


def test_an_earlier_revision_changes_nothing(table: Table) -> None:
    assert commit(table, [stage(table, rows(1), window=1)], item="labels/1", revision=2, replaces=1)
    version = table.state().version
    assert not commit(table, [stage(table, rows(2), window=1)], item="labels/1", replaces=1)
    assert (keys(table, 1), table.state().version) == ([1], version)


def test_a_revision_with_some_of_the_old_files_keeps_these(table: Table) -> None:
    old = [stage(table, rows(1), window=1), stage(table, rows(2), window=1)]
    assert commit(table, old, item="labels/1", replaces=1)
    assert commit(table, [old[0], stage(table, rows(3), window=1)], item="labels/1", revision=2, replaces=1)
    assert keys(table, 1) == [1, 3]
    changed = [action.get("add") or action.get("remove") for action in log_of(table.uri)]
    assert len([action for action in changed if action and action["path"] == old[0].path]) == 1


def test_a_commit_records_the_versions_that_it_was_made_from(table: Table) -> None:
    commit(table, [], item="labels/1", inputs={"impressions": 7, "feedback": 3})
    assert DeltaTable(table.uri).history(1)[0]["exfm.inputs"] == '{"impressions": 7, "feedback": 3}'


Files = Callable[[Table], list[StagedFile]]


@pytest.mark.parametrize("step", ["create labels", "commit labels labels/1 1"])
@pytest.mark.parametrize("replaces", [None, 1])
@pytest.mark.parametrize("files", [lambda table: [], lambda table: [stage(table, rows(1), window=1)]])
def test_an_item_that_another_does_between_look_up_and_commit_is_found_done(
    table: Table, step: str, replaces: int | None, files: Files
) -> None:
    others: list[bool] = []

    def on_step(name: str) -> None:
        if name == step and not others:
            others.append(commit(table, files(table), item="labels/1", replaces=replaces))

    late = Table(table.uri, table.columns, on_step)
    assert not commit(late, files(late), item="labels/1", replaces=replaces)
    assert others == [True]
    assert commits_of(table.uri) == {("labels/1", 1): 1}


@pytest.mark.parametrize(("replaces", "kept"), [(None, [1, 2]), (1, [1])])
def test_an_item_that_another_one_overtakes_is_committed_after_it(
    table: Table, replaces: int | None, kept: list[int]
) -> None:
    others: list[bool] = []

    def on_step(name: str) -> None:
        if name.startswith("commit") and not others:
            others.append(commit(table, [stage(table, rows(2), window=1)], item="labels/2"))

    late = Table(table.uri, table.columns, on_step)
    assert commit(late, [stage(late, rows(1), window=1)], item="labels/1", replaces=replaces)
    assert keys(table, 1) == kept


@pytest.mark.slow
def test_a_revision_is_found_after_checkpoints_and_without_the_commit_that_it_came_with(table: Table) -> None:
    commit(table, [stage(table, rows(1), window=1)], item="labels/1", revision=3, replaces=1)
    for window in range(2, 103):
        commit(table, [], item=f"labels/{window}", replaces=window)
    log, opened = Path(table.uri, "_delta_log"), DeltaTable(table.uri)
    assert "delta.setTransactionRetentionDuration" not in opened.metadata().configuration
    checkpoints = sorted(path.name for path in log.glob("*.checkpoint.parquet"))
    assert checkpoints == [f"{version:020}.checkpoint.parquet" for version in (19, 39, 59, 79, 99)]
    for version in range(99):
        (log / f"{version:020}.json").unlink()
    assert [table.state().revision(f"labels/{window}") for window in (1, 2, 97, 102)] == [3, 1, 1, 1]
    assert keys(table, 1) == [1]
    assert not commit(table, [stage(table, rows(9), window=1)], item="labels/1", revision=3, replaces=1)


def test_a_log_says_when_its_newest_commits_were_made(table: Table) -> None:
    assert table.state().newest_commits(9) == []
    before_ms = time.time_ns() // 1_000_000
    for batch in (1, 2, 3):
        assert commit(table, [stage(table, rows(batch), window=1)], item=f"ingest/{batch}")
    found = table.state().newest_commits(2)
    assert [one.item for one in found] == ["ingest/2", "ingest/3"]
    assert before_ms <= found[0].at_ms <= found[1].at_ms <= time.time_ns() // 1_000_000
    assert table.state().newest_commits(9)[0].item == "", "the table was made"
