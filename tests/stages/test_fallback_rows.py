"""The row that answers for a shard that is away."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.fallback_rows import FALLBACK_FILE, read_fallback_rows
from exfm.artifact.storage import Ref
from exfm.bundling.fallback import mean_row
from exfm.errors import BundleError
from exfm.planning.statistics import HotRows

pytestmark = pytest.mark.slow

TABLE = torch.tensor([[0.0, 8.0], [2.0, 0.0], [4.0, 0.0], [6.0, 0.0]])


def test_a_mean_row_weighs_rows_by_how_often_they_are_wanted() -> None:
    skew = [HotRows(num_rows=1, mass=0.5), HotRows(num_rows=2, mass=0.75)]
    row = mean_row(TABLE, np.array([3, 0, 1]), skew)
    assert row.dtype == torch.float32
    assert row.tolist() == [0.5 * 6 + 0.25 * 0 + 0.25 * (2 + 4) / 2, 0.25 * 8]


@pytest.mark.parametrize("skew", [[], [HotRows(num_rows=4, mass=0.0)]], ids=["nothing counted", "no mass"])
def test_without_counts_all_rows_weigh_the_same(skew: list[HotRows]) -> None:
    assert mean_row(TABLE, np.array([3, 0, 1, 2]), skew).tolist() == [3.0, 2.0]


def test_mass_on_rows_that_are_not_ranked_is_left_out_where_all_rows_are() -> None:
    row = mean_row(TABLE, np.array([3, 0, 1, 2]), [HotRows(num_rows=1, mass=0.4), HotRows(num_rows=4, mass=0.8)])
    assert row.tolist() == pytest.approx([(0.4 * 6 + 0.4 * 2) / 0.8, 0.4 * 8 / 3 / 0.8])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.permutations(range(6)))
def test_a_mean_row_lies_among_the_rows(masses: list[float], order: list[int]) -> None:
    table = torch.arange(12, dtype=torch.float32).view(6, 2)
    skew = [HotRows(num_rows=number + 1, mass=mass) for number, mass in enumerate(sorted(masses))]
    row = mean_row(table, np.array(order), skew)
    assert (row >= table.min(dim=0).values - 1e-5).all()
    assert (row <= table.max(dim=0).values + 1e-5).all()


def test_a_bundle_has_a_row_for_each_table(bundle: Ref) -> None:
    folder = Path(bundle.uri)
    manifest = BundleManifest.read(folder)
    assert manifest.fallback_rows == FALLBACK_FILE
    rows = read_fallback_rows(folder / FALLBACK_FILE, manifest.feature_schema)
    assert rows.keys() == {table.name for table in manifest.feature_schema.tables}
    assert all(np.abs(row).max() > 0 for row in rows.values())


@pytest.mark.parametrize(
    ("row", "found"), [(None, "missing"), (np.zeros(3, np.float32), r"float32 \[3\]"), (np.zeros(8), "float64")]
)
def test_a_row_that_is_missing_or_of_another_form_is_named(
    row: np.ndarray | None, found: str, bundle: Ref, tmp_path: Path
) -> None:
    folder = Path(bundle.uri)
    schema = BundleManifest.read(folder).feature_schema
    rows = dict(read_fallback_rows(folder / FALLBACK_FILE, schema))
    name = schema.tables[0].name
    if row is None:
        del rows[name]
    else:
        rows[name] = row
    path = tmp_path / "fallback.safetensors"
    safetensors.numpy.save_file(rows, path)
    with pytest.raises(BundleError, match=f"the row of table '{name}' is {found}.*; export the bundle again"):
        read_fallback_rows(path, schema)
