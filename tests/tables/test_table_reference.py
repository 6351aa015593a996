"""References to one version of a table."""

import os
from pathlib import Path

import pytest
from deltalake import DeltaTable
from work import COLUMNS, rows

from exfm.artifact.stores import join
from exfm.errors import ConfigError, StorageError
from exfm.tables.commit import commit, stage
from exfm.tables.reference import TableRef
from exfm.tables.table import Table, storage_options

STORES = ["disk", pytest.param("bucket", marks=pytest.mark.slow)]


@pytest.fixture
def table(root: str) -> Table:
    """Return a table with three revisions of a window."""
    table = Table(join(root, "tables", "labels"), COLUMNS)
    for revision in (1, 2, 3):
        staged = [stage(table, rows(revision), window=1)]
        commit(table, staged, item="labels/1", revision=revision, replaces=1)
    return table


@pytest.mark.parametrize("root", STORES, indirect=True)
def test_a_reference_gives_that_very_version_whatever_came_later(table: Table) -> None:
    for revision in (1, 2, 3):
        state = TableRef(table=table.uri, version=revision).state()
        assert (state.version, state.revision("labels/1")) == (revision, revision)
        assert state.columns == COLUMNS
        assert state.read([1]).drop("window").equals(rows(revision))


def test_a_reference_is_written_as_json_and_read_again(table: Table) -> None:
    ref = TableRef(table=table.uri, version=table.state().version)
    assert TableRef.parse(ref.model_dump(), source="here") == ref
    with pytest.raises(ConfigError, match="version"):
        TableRef.parse({"table": table.uri, "version": -1}, source="here")


def test_a_reference_to_no_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="labels: no table there; run the stage that writes it"):
        TableRef(table=str(tmp_path / "labels"), version=0).state()


def test_a_version_that_is_not_there_yet_is_an_error(table: Table) -> None:
    with pytest.raises(StorageError, match=r"labels: the newest version is 3, not 4; was the table made again\?"):
        TableRef(table=table.uri, version=4).state()


def test_a_version_whose_log_was_cleaned_up_is_an_error(table: Table) -> None:
    DeltaTable(table.uri).create_checkpoint()
    for version in range(3):
        (Path(table.uri) / "_delta_log" / f"{version:020}.json").unlink()
    with pytest.raises(StorageError, match="labels: version 1 is gone, the newest is 3; run the stage again"):
        TableRef(table=table.uri, version=1).state()
    assert TableRef(table=table.uri, version=3).state().read([1]).height == 1


@pytest.mark.parametrize("root", STORES, indirect=True)
def test_rows_that_were_vacuumed_are_an_error_that_names_the_version(table: Table) -> None:
    DeltaTable(table.uri, storage_options=storage_options(table.uri)).vacuum(
        0, enforce_retention_duration=False, dry_run=False
    )
    with pytest.raises(StorageError, match=r"labels, version 1: .*parquet.*; was it cleaned up\? Run the stage again"):
        TableRef(table=table.uri, version=1).state().read([1])


@pytest.mark.slow
def test_the_log_of_old_versions_stays(root: str) -> None:
    table = Table(join(root, "tables", "labels"), COLUMNS)
    for window in range(101):
        commit(table, [], item=f"labels/{window}", replaces=window)
        for path in Path(table.uri, "_delta_log").glob("*"):
            os.utime(path, (0, 0))
    assert TableRef(table=table.uri, version=50).state().version == 50
