"""Drift tells a column that changed from one that did not, whatever its type."""

import math
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfm.das.drift import MAX_ROWS, drift, stability_index


def test_the_index_is_that_of_the_shares_with_half_a_row_more_in_each_bin() -> None:
    p, q = (29 + 0.5) / 101, (69 + 0.5) / 101
    expected = (q - p) * math.log(q / p) + ((1 - q) - (1 - p)) * math.log((1 - q) / (1 - p))
    found = stability_index(np.array([29, 71]), np.array([69, 31]))
    assert found == pytest.approx(expected)
    assert found == pytest.approx(0.664, abs=5e-4)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1))
def test_the_index_is_never_negative_and_the_same_both_ways(counts: list[tuple[int, int]]) -> None:
    before, now = (np.array(side) for side in zip(*counts, strict=True))
    assert stability_index(before, now) == pytest.approx(stability_index(now, before))
    assert stability_index(before, now) >= 0
    assert stability_index(before, before) == 0


def _columns(seed: int, *, moved: float) -> dict[str, pl.Series]:
    rng, rows = np.random.default_rng(seed), 5_000
    ids = (rng.zipf(1.5, rows) % 300 + np.where(rng.random(rows) < moved / 2, 500, 0)).astype(np.int64)
    return {
        "number": pl.Series(rng.normal(moved, 1.0, rows)),
        "mostly 0": pl.Series(np.where(rng.random(rows) < 0.9 - 0.3 * moved, 0.0, rng.random(rows))),
        "mostly 1": pl.Series(np.where(rng.random(rows) < 0.9 - 0.3 * moved, 1.0, rng.random(rows))),
        "missing": pl.Series(np.where(rng.random(rows) < 0.1 + 0.3 * moved, np.nan, 1.0)),
        "id": pl.Series(ids),
        "text": pl.Series([f"a{one}" for one in ids]),
        "list": pl.Series([[int(one)] * (int(one) % 3) for one in ids], dtype=pl.List(pl.Int64)),
    }


@pytest.mark.parametrize("column", list(_columns(0, moved=0)))
def test_a_column_that_moved_drifts_more_than_one_that_did_not(column: str) -> None:
    before = _columns(0, moved=0)[column]
    drifts = [drift(before, _columns(1, moved=moved)[column]) for moved in (0.0, 0.5, 1.0)]
    known = [one for one in drifts if one is not None]
    assert len(known) == 3
    assert known[0] < 0.02
    assert known[2] > 0.25
    assert all(one < two for one, two in pairwise(known))


def test_a_large_window_is_judged_by_rows_from_all_of_it() -> None:
    before = pl.Series(np.zeros(3 * MAX_ROWS))
    now = before.clone().scatter(np.arange(2 * MAX_ROWS, 3 * MAX_ROWS), 1.0)
    less_0, is_0, more_0, missing = 0, MAX_ROWS, 0, 0
    moved = MAX_ROWS // 3
    expected = stability_index(
        np.array([less_0, is_0, more_0, missing]), np.array([less_0, is_0 - moved, more_0 + moved, missing])
    )
    assert drift(before, now) == pytest.approx(expected, rel=1e-3)
    assert drift(before, before.clone()) == 0


def test_a_column_without_values_before_has_no_drift() -> None:
    for dtype in (pl.Float64(), pl.Int64(), pl.List(pl.Int64())):
        assert drift(pl.Series([None, None], dtype=dtype), pl.Series([None], dtype=dtype)) is None
    assert drift(pl.Series([float("nan")]), pl.Series([1.0])) is None
    assert drift(pl.Series([1.0]), pl.Series([], dtype=pl.Float64)) is None
