from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from exfm.artifact.hot_rows import RowSet, read_hot_rows, write_hot_rows
from exfm.artifact.plan import Assignment, TableSlice, assign
from exfm.errors import BundleError
from exfm.schema import Schema


@pytest.fixture
def slices(schema: Schema) -> tuple[TableSlice, ...]:
    """Return the slices of a plan whose tables `user` and `genre` have 3 and 1 hot rows."""
    assignments = [Assignment(table.name, 0, 0, table.rows) for table in schema.tables]
    hot = [Assignment("user", 1, 0, 3, hot=True), Assignment("genre", 2, 0, 1, hot=True)]
    return assign(schema, [*assignments, *hot], 3)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_a_row_set_knows_the_place_of_each_member_and_no_other_row(case: tuple[int, set[int]]) -> None:
    num_rows, members = case
    in_order = sorted(members)
    rows = np.arange(num_rows)
    found = RowSet(np.array(in_order), num_rows=num_rows)
    assert len(found) == len(members)
    assert found.contain(rows).tolist() == [row in members for row in rows]
    assert found.positions(rows).tolist() == [in_order.index(row) if row in members else -1 for row in rows]


def test_a_row_set_reaches_to_the_last_row_of_a_large_table() -> None:
    last = 2**26
    members = RowSet(np.array([3, last]), num_rows=2**26 + 1)
    assert members.positions(np.array([last, last - 1, 3, 0])).tolist() == [1, -1, 0, -1]


def test_hot_rows_are_read_as_they_were_written(tmp_path: Path, slices: tuple[TableSlice, ...], schema: Schema) -> None:
    write_hot_rows(tmp_path / "hot", {"user": np.array([0, 7, 2047]), "genre": np.array([5])})
    assert (tmp_path / "hot").stat().st_mode & 0o044 == 0o044
    found = read_hot_rows(tmp_path / "hot", slices, schema)
    assert list(found) == ["user", "genre"]
    assert found["user"].positions(np.array([0, 7, 2047, 8])).tolist() == [0, 1, 2, -1]
    on_shard_2 = read_hot_rows(tmp_path / "hot", [slice_ for slice_ in slices if slice_.shard == 2], schema)
    assert list(on_shard_2) == ["genre"]


def test_slices_without_a_hot_one_need_no_file(tmp_path: Path, slices: tuple[TableSlice, ...], schema: Schema) -> None:
    assert read_hot_rows(tmp_path / "none", slices[:5], schema) == {}


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (np.array([0, 7], dtype=np.uint32), r"are uint32 \[2\], expected uint32 \[3\]"),
        (np.array([0, 7, 9], dtype=np.int64), r"are int64 \[3\], expected uint32 \[3\]"),
        (np.array([0, 9, 9], dtype=np.uint32), "do not rise, or reach beyond its 2048 rows"),
        (np.array([0, 9, 2048], dtype=np.uint32), "do not rise, or reach beyond its 2048 rows"),
    ],
)
def test_hot_rows_that_are_not_the_plans_are_refused(
    user: np.ndarray, message: str, tmp_path: Path, slices: tuple[TableSlice, ...], schema: Schema
) -> None:
    safetensors.numpy.save_file({"user": user, "genre": np.array([5], dtype=np.uint32)}, tmp_path / "hot")
    with pytest.raises(BundleError, match=f"the hot rows of table 'user' {message}"):
        read_hot_rows(tmp_path / "hot", slices, schema)


@pytest.mark.parametrize("content", [None, b"no tensors"])
def test_a_file_that_is_missing_or_no_safetensors_is_named(
    content: bytes | None, tmp_path: Path, slices: tuple[TableSlice, ...], schema: Schema
) -> None:
    if content is not None:
        (tmp_path / "hot").write_bytes(content)
    with pytest.raises(BundleError, match=r"/hot: .*; export the bundle again"):
        read_hot_rows(tmp_path / "hot", slices, schema)


def test_a_table_that_the_file_lacks_is_named(tmp_path: Path, slices: tuple[TableSlice, ...], schema: Schema) -> None:
    write_hot_rows(tmp_path / "hot", {"genre": np.array([5])})
    with pytest.raises(BundleError, match="user"):
        read_hot_rows(tmp_path / "hot", slices, schema)
