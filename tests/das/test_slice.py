"""A vertical model reads its domains and its columns, and leaves the rest of a window in the store."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from small_log import small_das

from exfm.das.closing import LogState
from exfm.das.joining import example_table
from exfm.tables.commit import ROW_GROUP_ROWS, commit, stage
from faulty_s3 import FaultyS3

pytestmark = pytest.mark.slow

DOMAINS = ("a", "b", "c", "d")
ROWS_A_DOMAIN = 80_000
COLUMNS = {name: pl.Int64() for name in ("id", "time", "item", "other_1", "other_2", "other_3", "other_4")}


@pytest.fixture
def state(bucket: str, faulty_s3: FaultyS3) -> LogState:
    """Return a log with one window of examples, sorted by domain."""
    das = small_das(bucket)
    table = das.table("examples", {"domain": pl.String(), **COLUMNS})
    rng = np.random.default_rng(0)
    num_rows = ROWS_A_DOMAIN * len(DOMAINS)
    numbers = {name: rng.integers(0, 2**62, num_rows) for name in COLUMNS}
    rows = pl.DataFrame({"domain": np.repeat(DOMAINS, ROWS_A_DOMAIN), **numbers})
    commit(table, [stage(table, rows, window=7)], item="examples/7")
    return LogState.of(das)


def read_bytes(faulty_s3: FaultyS3) -> int:
    """Return the bytes of rows that were read since the last call."""
    found = sum(count for path, count in faulty_s3.num_bytes.items() if "window=7" in path)
    faulty_s3.num_bytes.clear()
    return found


def test_a_slice_reads_its_columns_and_row_groups_only(state: LogState, faulty_s3: FaultyS3) -> None:
    read_bytes(faulty_s3)
    whole = state.examples.read([7])
    all_bytes = read_bytes(faulty_s3)
    assert all_bytes > 0.9 * whole.height * len(COLUMNS) * 8
    columns = ["id", "time", "item", "other_4"]
    found = example_table(state).read(state.das.grid.window(7), domains=["b"], columns=columns)
    assert_frame_equal(found, whole.filter(domain="b").select(columns).sort("time"))
    row_groups = 2  # that have rows of the domain: 80,000 rows begin in one and end in the next
    expected = row_groups * ROW_GROUP_ROWS / whole.height * len(columns) / len(COLUMNS) * all_bytes
    assert read_bytes(faulty_s3) < 1.1 * expected


def test_a_slice_without_domains_has_all_rows(state: LogState) -> None:
    window = state.das.grid.window(7)
    assert example_table(state).read(window, columns=["id"]).height == ROWS_A_DOMAIN * len(DOMAINS)
    assert example_table(state).read(window, domains=["nobody"]).height == 0
    two = example_table(state).read(window, domains=["a", "d"], columns=["domain"])
    assert two["domain"].unique().sort().to_list() == ["a", "d"]
