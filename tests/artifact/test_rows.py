import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfm.artifact.rows import first_key_of_row, rows_of_keys

KEYS = st.integers(0, 2**64 - 1)
NUM_ROWS = st.integers(1, 2**32)


def row(key: int, num_rows: int) -> int:
    return int(rows_of_keys(np.array([key], dtype=np.uint64), num_rows)[0])


@pytest.mark.parametrize("num_rows", [1, 2, 3, 2048, 2**31, 2**32 - 1, 2**32])
def test_the_first_key_falls_on_the_first_row_and_the_last_on_the_last(num_rows: int) -> None:
    assert row(0, num_rows) == 0
    assert row(2**64 - 1, num_rows) == num_rows - 1


@given(st.lists(KEYS, max_size=50), NUM_ROWS)
def test_a_row_is_the_key_times_the_rows_over_2_to_the_64(keys: list[int], num_rows: int) -> None:
    rows = rows_of_keys(np.array(keys, dtype=np.uint64), num_rows)
    assert rows.dtype == np.int64
    assert rows.tolist() == [key * num_rows // 2**64 for key in keys]


@given(st.lists(KEYS, min_size=2, max_size=50).map(sorted), NUM_ROWS)
def test_rows_grow_with_keys(keys: list[int], num_rows: int) -> None:
    assert (np.diff(rows_of_keys(np.array(keys, dtype=np.uint64), num_rows)) >= 0).all()


@given(st.data(), NUM_ROWS)
def test_the_first_key_of_a_row_is_the_smallest_on_it(data: st.DataObject, num_rows: int) -> None:
    wanted = data.draw(st.integers(0, num_rows - 1))
    first = first_key_of_row(wanted, num_rows)
    assert row(first, num_rows) == wanted
    assert first == 0 or row(first - 1, num_rows) == wanted - 1


@given(NUM_ROWS)
def test_the_keys_end_after_the_last_row(num_rows: int) -> None:
    assert first_key_of_row(num_rows, num_rows) == 2**64
    assert first_key_of_row(0, num_rows) == 0


def test_rows_have_the_shape_of_the_keys() -> None:
    assert rows_of_keys(np.zeros((2, 3), dtype=np.uint64), 7).shape == (2, 3)
    assert rows_of_keys(np.array([], dtype=np.uint64), 7).shape == (0,)
