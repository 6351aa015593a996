"""A store that is full or refuses: one error that names the table, nothing half-written, and the next try works."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from work import COLUMNS, commits_of, files_there, rows

from exfm.artifact.stores import join
from exfm.errors import StorageError
from exfm.tables.commit import commit, stage
from exfm.tables.table import Table
from faulty_s3 import FaultyS3

REMEDY = "check the path, the rights, the credentials and the free space"


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow over 100 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def everything(folder: str) -> set[str]:
    return {str(path) for path in Path(folder).rglob("*") if path.is_file()}


def begin(root: str) -> Table:
    """Return a table with one window."""
    table = Table(join(root, "tables", "labels"), COLUMNS)
    commit(table, [stage(table, rows(1), window=1)], item="labels/1", replaces=1)
    return table


def test_a_full_disk_is_an_error_that_leaves_nothing_and_goes_away_with_space(root: str) -> None:
    table = begin(root)
    staged = [stage(table, rows(2), window=2)]
    wider = Table(table.uri, {**COLUMNS, "score": pl.Float64()})
    other = Table(join(root, "tables", "other"), COLUMNS)
    tries: list[tuple[str, Callable[[], object]]] = [
        ("labels", lambda: stage(table, rows(3), window=1)),
        ("labels", lambda: commit(table, staged, item="labels/2", replaces=2)),
        ("labels", lambda: commit(wider, [], item="labels/3", replaces=3)),
        ("other", lambda: commit(other, [], item="labels/1", replaces=1)),
    ]
    before = everything(root)
    for name, attempt in tries:
        with pytest.raises(StorageError, match=rf"tables/{name}.*File too large.*{REMEDY}") as raised, full_disk():
            attempt()
        assert "\n" not in str(raised.value)
        assert everything(root) == before
    assert table.state().version == 1
    for _, attempt in tries:
        assert attempt()
    assert commits_of(table.uri) == {(f"labels/{window}", 1): 1 for window in (1, 2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("code", [503, 403])
@pytest.mark.parametrize(("method", "part"), [("PUT", "window="), ("PUT", "_delta_log"), ("GET", "_delta_log")])
def test_an_s3_that_refuses_is_an_error_and_one_that_answers_again_loses_nothing(
    bucket: str, faulty_s3: FaultyS3, method: str, part: str, code: int
) -> None:
    table = begin(bucket)
    faulty_s3.refuse(method, part, code=code)
    with pytest.raises(StorageError, match=rf"{table.uri}.*{REMEDY}") as raised:
        commit(table, [stage(table, rows(2), window=2)], item="labels/2", replaces=2)
    assert "\n" not in str(raised.value)
    faulty_s3.refuse(method, part, code=code, times=0)
    assert commits_of(table.uri) == {("labels/1", 1): 1}
    assert commit(table, [stage(table, rows(2), window=2)], item="labels/2", replaces=2)
    assert commits_of(table.uri) == {("labels/1", 1): 1, ("labels/2", 1): 1}
    assert files_there(table.uri) == {file.path for files in table.state().files.values() for file in files}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "part"), [("PUT", "window="), ("PUT", "_delta_log"), ("GET", "_delta_log")])
def test_a_refusal_that_passes_is_tried_again(bucket: str, faulty_s3: FaultyS3, method: str, part: str) -> None:
    table = begin(bucket)
    faulty_s3.refuse(method, part, code=503, times=1)
    assert commit(table, [stage(table, rows(2), window=2)], item="labels/2", replaces=2)
    assert faulty_s3.num_refused == 1
    assert table.state().num_rows([1, 2]) == 2


@pytest.mark.slow
def test_rows_that_s3_refuses_are_an_error(bucket: str, faulty_s3: FaultyS3) -> None:
    table = begin(bucket)
    state = table.state()
    faulty_s3.refuse("GET", "window=", code=403)
    with pytest.raises(StorageError, match=rf"{table.uri}.*{REMEDY}"):
        state.read([1])
