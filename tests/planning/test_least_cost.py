"""No plan costs less than the bound, whoever makes it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_models import COSTS, demands, model, models, shards, table

from exfm.errors import PlanError
from exfm.planning.config import Demand
from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm.planning.enumerator import Parts
from exfm.planning.partitioner.bounds import distance
from exfm.planning.perf_model.candidates import candidate_of
from exfm.planning.placement import Placement
from exfm.planning.planner import best_candidate
from exfm.planning.proposer.strategies import place_by_each_strategy
from exfm.planning.statistics import Statistics, TableStatistics
from exfm.planning.topology import fleet_of, needs_of
from exfm.schema import Schema
from exfm_bench.cost_bound import least_cost
from exfm_bench.large_models import drm1_like

Model = tuple[Schema, Statistics]

ROUNDING = 1 + 1e-9


def some_copies(of_table: TableStatistics) -> list[int]:
    """Return numbers of rows to copy, among them those that were counted."""
    return [0, of_table.rows // 2, *(point.num_rows for point in of_table.skew)]


some_prices = st.fixed_dictionaries({"core": st.sampled_from([0.0, 1.0]), "gib": st.sampled_from([0.125, 1e4])})


@pytest.mark.slow
@settings(max_examples=15)
@given(
    model=models(min_tables=2, max_tables=8),
    demand=demands,
    prices=some_prices,
    num_shards=st.sampled_from([2, 5]),
    memory_bytes=st.sampled_from([2**18, 2**20, 2**24]),
)
def test_no_strategy_and_no_auto_plan_costs_less_than_the_bound(
    model: Model, demand: Demand, prices: dict[str, float], num_shards: int, memory_bytes: int
) -> None:
    config = shards(num_shards, memory_bytes=memory_bytes, strategy="auto", demand=demand.to_dict(), prices=prices)
    bound = least_cost(model[1], config, COSTS)
    found, _ = place_by_each_strategy(model[1], config, COSTS)
    for placement in found.values():
        if not placement.is_singular:
            assert candidate_of(placement, config, COSTS).fleet.cost * ROUNDING >= bound
    assert best_candidate(*model, config, COSTS).fleet.cost * ROUNDING >= bound


@pytest.mark.slow
@given(data=st.data(), model=models(), demand=demands, prices=some_prices)
def test_no_placement_costs_less_than_the_bound_however_rows_are_split_and_copied(
    data: st.DataObject, model: Model, demand: Demand, prices: dict[str, float]
) -> None:
    statistics = model[1]
    cold_us = data.draw(st.sampled_from([0.0, 500.0, 5_000.0]))
    costs = COSTS.model_copy(update={"shard_cold_us": cold_us, "ranker_cold_us": 2 * cold_us})
    pieces = np.array([data.draw(st.integers(1, min(one.rows, 4))) for one in statistics.tables])
    hot_rows = np.array([data.draw(st.sampled_from(some_copies(one))) for one in statistics.tables])
    parts = Parts.divide(statistics, costs, encoding="fp32", pieces=pieces, hot_rows=hot_rows)
    shard_of = np.array([data.draw(st.integers(0, 5)) for _ in range(len(parts))])
    _, shard_of = np.unique(shard_of, return_inverse=True)
    placement = Placement("by hand", parts, shard_of, int(shard_of.max()) + 1)
    config = shards(
        2, memory_bytes=int(placement.shard_bytes.max()), demand=demand.to_dict(), prices=prices
    )  # no shard is larger than needed, so the bound is as high as it can be
    utilisation = demand.max_utilisation * data.draw(st.sampled_from([1.0, 0.5]))
    cost = fleet_of(needs_of(placement, costs), config, costs, utilisation=utilisation).cost
    assert cost * ROUNDING >= least_cost(statistics, config, costs)


@pytest.mark.parametrize("requests_per_s", [0.0, 5_000.0])
def test_the_bound_is_what_a_plan_on_one_shard_costs_where_one_net_fits_on_it(requests_per_s: float) -> None:
    _, statistics = model(table("a", rows=1000), table("b", rows=2000, pooling=3))
    config = shards(1, memory_bytes=2**20, demand={"requests_per_s": requests_per_s})
    found, _ = place_by_each_strategy(statistics, config, COSTS)
    candidate = candidate_of(found["one-shard"], config, COSTS)
    assert least_cost(statistics, config, COSTS) == pytest.approx(candidate.fleet.cost)


def test_the_bound_counts_the_shards_that_the_bytes_need() -> None:
    _, statistics = model(table("a", rows=1000, dim=16), table("b", rows=1000, dim=16))  # 64,000 B each
    config = shards(2, memory_bytes=32_000, demand={"min_replicas": 2}, prices={"gib": 0.0})
    assert least_cost(statistics, config, COSTS) == 2 + 8  # two rankers, and two servers of each of four shards


def test_the_bound_counts_the_copies_that_calls_without_keys_need() -> None:
    _, statistics = model(table("a", rows=1000, dim=16), table("b", rows=1000, dim=16))
    of_tables = {"core": 0.0, "gib": 2**30, "overhead_gib": 0.0}  # so a bound is the bytes of tables
    few, many = (
        least_cost(statistics, shards(2, memory_bytes=2**20, demand={"requests_per_s": rate}, prices=of_tables), COSTS)
        for rate in (100.0, 10_000.0)
    )
    assert few == 128_000
    assert many > 128_000


def test_copies_of_hot_rows_cost_less_than_any_plan_without_them_but_not_less_than_the_bound() -> None:
    config = shards(
        2,
        memory_bytes=2**28,
        strategy="auto",
        demand={"requests_per_s": 20_000.0},
        prices={"gib": 1000.0, "overhead_gib": 0.0},
    )
    skewed, even = (
        model(table("large", rows=400_000, dim=64, pooling=500, hot=hot), table("small", rows=1000, dim=64))
        for hot in ((1000, 0.95), None)
    )
    cost = best_candidate(*skewed, config, COSTS).fleet.cost
    assert least_cost(skewed[1], config, COSTS) <= cost < least_cost(even[1], config, COSTS)


def test_auto_is_near_the_bound_of_a_large_model_under_a_large_load() -> None:
    workload = drm1_like(0)
    config = workload.settings("auto").model_copy(update={"demand": Demand(requests_per_s=20_000.0)})
    cost = best_candidate(workload.schema, workload.statistics, config, DEFAULT_COSTS).fleet.cost
    assert 0 < distance(cost, least_cost(workload.statistics, config, DEFAULT_COSTS)) < 0.15


def test_a_row_that_no_shard_holds_has_no_plan_and_no_bound() -> None:
    _, statistics = model(table("a", dim=64))
    with pytest.raises(PlanError, match="a row of table 'a' takes 256 B, but a shard has 128 B"):
        least_cost(statistics, shards(2, memory_bytes=128), COSTS)
