"""Made-up models are what their names say, and are placed near the bound."""

import math

import numpy as np
import pytest

from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm.planning.proposer.strategies import STRATEGIES
from exfm.planning.statistics import check_statistics
from exfm_bench.large_models import (
    ZIPF,
    Workload,
    changed,
    drm1_like,
    drm2_like,
    drm3_like,
    heavy_tailed,
    ten_terabytes,
    zipf_mass,
)
from exfm_bench.placement import load_full


@pytest.mark.parametrize(
    ("make", "num_tables", "num_nets"),
    [(drm1_like, 257, 2), (drm2_like, 133, 2), (drm3_like, 39, 1), (ten_terabytes, 1000, 2)],
)
def test_made_up_models_have_their_tables_and_nets(make: object, num_tables: int, num_nets: int) -> None:
    workload: Workload = make(0)  # type: ignore[operator]
    check_statistics(workload.schema, workload.statistics)
    assert len(workload.statistics.tables) == num_tables
    assert len({table.net for table in workload.statistics.tables}) == num_nets


def test_ten_terabytes_of_tables_are_ten_terabytes() -> None:
    assert ten_terabytes(0).total_bytes == pytest.approx(10e12, rel=1e-3)


def test_one_table_is_nine_tenths_of_the_bytes_of_a_model_like_drm3() -> None:
    workload = drm3_like(0)
    assert max(
        table.size_bytes("fp32") for table in workload.statistics.tables
    ) / workload.total_bytes == pytest.approx(0.9, abs=1e-3)


def test_bytes_and_load_both_bind_where_tails_are_heavy() -> None:
    workload = heavy_tailed(0, num_tables=400, num_shards=32, fill=0.92)
    config = workload.settings("load-balanced")
    assert workload.total_bytes / (32 * config.capacity_bytes) == pytest.approx(0.92, abs=1e-3)
    placement = STRATEGIES["load-balanced"](workload.statistics, config, DEFAULT_COSTS)
    assert placement.bound is not None
    assert load_full(placement.bound, workload, DEFAULT_COSTS) > 0.9
    sizes = np.sort([table.size_bytes("fp32") for table in workload.statistics.tables])
    assert sizes[-40:].sum() > sizes.sum() / 2, "a tenth of the tables has most of the bytes"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("make", [drm1_like, drm2_like, drm3_like])
def test_models_like_drm_are_placed_near_the_bound(make: object, seed: int) -> None:
    workload: Workload = make(seed)  # type: ignore[operator]
    for strategy, most in (("capacity-balanced", 0.01), ("load-balanced", 0.02)):
        placement = STRATEGIES[strategy](workload.statistics, workload.settings(strategy), DEFAULT_COSTS)
        assert placement.distance is not None
        assert placement.distance <= most
        assert placement.shard_bytes.max() <= workload.settings(strategy).capacity_bytes


def test_the_same_seed_makes_the_same_model_and_another_another() -> None:
    assert drm2_like(3) == drm2_like(3)
    assert drm2_like(3).statistics != drm2_like(4).statistics


def test_a_zipf_sum_is_what_adding_up_gives() -> None:
    def added(count: int) -> float:
        return math.fsum(k**-ZIPF for k in range(1, count + 1))

    assert zipf_mass(30, 5000) == pytest.approx(added(30) / added(5000), rel=1e-3)


def test_a_model_some_time_later_has_new_tables_and_others_asked_more() -> None:
    before = heavy_tailed(0, num_tables=200, num_shards=8)
    after = changed(before)
    check_statistics(after.schema, after.statistics)
    assert len(after.statistics.tables) == 202
    assert after.statistics.tables[0].pooling_mean == 2 * before.statistics.tables[0].pooling_mean
