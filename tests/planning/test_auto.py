"""`auto` costs no more than any other strategy that meets the demand."""

import numpy as np
import pytest
from hypothesis import given, settings
from made_models import COSTS, demands, model, models, shards, table

from exfm.errors import PlanError
from exfm.planning.config import Demand
from exfm.planning.enumerator import Parts
from exfm.planning.perf_model.candidates import candidate_of
from exfm.planning.perf_model.forecast import forecast
from exfm.planning.planner import best_candidate, make_plan
from exfm.planning.proposer.density import cut, placements_by_density
from exfm.planning.proposer.strategies import place_by_each_strategy
from exfm.planning.reporting.comparison import compare
from exfm.planning.statistics import Statistics
from exfm.planning.topology import fleet_of, needs_of
from exfm.schema import Schema

Model = tuple[Schema, Statistics]

DEAR = {"gib": 1000.0, "overhead_gib": 0.0}
"""Prices that make memory dear, though tables are small here."""


@pytest.mark.slow
@given(model=models(min_tables=2), demand=demands)
def test_auto_costs_no_more_than_any_other_strategy(model: Model, demand: Demand) -> None:
    config = shards(2, memory_bytes=2**24, strategy="auto", demand=demand.to_dict())
    found, _ = place_by_each_strategy(model[1], config, COSTS)
    deployable = [placement for placement in found.values() if not placement.is_singular]
    others = [candidate_of(placement, config, COSTS).fleet.cost for placement in deployable]
    assert best_candidate(*model, config, COSTS).fleet.cost <= min(others)


@pytest.mark.slow
@settings(max_examples=5)
@given(model=models(min_tables=3, max_tables=6))
def test_auto_costs_no_more_than_any_other_that_meets_a_latency(model: Model) -> None:
    demand = {"requests_per_s": 800.0, "p99_ms": 12.0, "simulated_requests": 1000}
    rows = compare(*model, shards(2, memory_bytes=2**20, demand=demand), COSTS)
    auto = rows[-1]
    assert auto.strategy == "auto"
    deployable = [row for row in rows if row.strategy != "singular"]
    costs = [row.candidate.fleet.cost for row in deployable if row.candidate and row.meets]
    if not costs:
        assert "no plan meets p99_ms" in auto.problem
    else:
        assert auto.candidate is not None
        assert auto.prediction is not None
        assert auto.candidate.fleet.cost == min(costs)
        assert auto.prediction.p99_ms <= 12


def test_a_cut_is_the_cheapest_of_all_cuts() -> None:
    tables = [table(f"t{index}", rows=2000 * (index + 1), dim=64, pooling=3.0 ** (6 - index)) for index in range(7)]
    _, statistics = model(*tables)
    demand = {"requests_per_s": 5000.0}
    config = shards(2, memory_bytes=6_000_000, demand=demand, prices={"gib": 200.0})
    ones = np.ones(7, dtype=np.int64)
    parts = Parts.divide(statistics, COSTS, encoding="fp32", pieces=ones, hot_rows=0)
    found = cut(parts, config, COSTS, most_cpu_s=1.0)
    order = np.argsort(-parts.cpu_s / parts.size_bytes)
    costs = []
    for number in range(2**6):
        breaks = np.array([0, *(number >> bit & 1 for bit in range(6))])
        shard_of = np.empty(7, dtype=np.int64)
        shard_of[order] = np.cumsum(breaks)
        if np.bincount(shard_of, parts.size_bytes).max() <= config.capacity_bytes:
            costs.append(cost_of(parts, shard_of, config))
    assert 1 < found.num_shards < 7
    # The cuts take the rankers for a share of their calls, while their number is whole.
    assert cost_of(parts, found.shard_of, config) <= min(costs) + 1 + config.prices.overhead_gib * config.prices.gib


def test_a_skewed_table_gets_a_copy_of_its_hot_rows() -> None:
    schema, statistics = model(
        table("skewed", rows=400_000, dim=64, pooling=500, hot=(1000, 0.95)), table("even", rows=1000, dim=64)
    )
    demand = {"requests_per_s": 20_000.0}
    config = shards(2, memory_bytes=2**28, strategy="auto", demand=demand, prices=DEAR)
    plan = make_plan(schema, statistics, config, COSTS).check(schema)
    [hot] = plan.hot_slices().values()
    [cold] = [slice_ for slice_ in plan.by_table()["skewed"] if slice_.kind == "rows"]
    assert (hot.table, hot.num_rows) == ("skewed", 1000)
    assert plan.replicas[hot.shard] > 2 * plan.replicas[cold.shard]


def test_no_copy_is_made_where_memory_costs_nothing() -> None:
    schema, statistics = model(table("skewed", rows=400_000, dim=64, pooling=50, hot=(1000, 0.95)), table("even"))
    config = shards(2, memory_bytes=2**28, strategy="auto", demand={"requests_per_s": 20_000.0}, prices={"gib": 0.0})
    assert not make_plan(schema, statistics, config, COSTS).hot_slices()


def test_more_servers_are_taken_for_a_latency_than_for_the_load_alone() -> None:
    schema, statistics = model(*(table(f"t{index}", rows=1000, pooling=20) for index in range(4)))
    demand = {"requests_per_s": 2000.0, "simulated_requests": 2000}
    loose = make_plan(schema, statistics, shards(2, memory_bytes=2**20, demand=demand), COSTS)
    tight = make_plan(schema, statistics, shards(2, memory_bytes=2**20, demand=demand | {"p99_ms": 8}), COSTS)
    assert sum(tight.replicas) > sum(loose.replicas)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_promised_latency_holds_for_requests_that_chose_no_servers(seed: int) -> None:
    schema, statistics = model(*(table(f"t{index}", rows=1000, pooling=20) for index in range(4)))
    demand = {"requests_per_s": 2000.0, "simulated_requests": 1000, "p99_ms": 10, "candidates_p99": 200, "seed": seed}
    config = shards(2, memory_bytes=2**20, strategy="auto", demand=demand)
    candidate = best_candidate(schema, statistics, config, COSTS)
    others = config.demand.model_copy(update={"simulated_requests": 100_000, "seed": seed + 1000})
    found = forecast(candidate, schema, config.model_copy(update={"demand": others}), COSTS)
    assert found.p99_ms <= 10 * 1.1
    assert not found.is_overloaded


@pytest.mark.parametrize("strategy", ["auto", "capacity-balanced"])
def test_a_latency_that_no_plan_reaches_is_refused_with_the_numbers(strategy: str) -> None:
    schema, statistics = model(table("t0", pooling=20), table("t1", pooling=20))
    demand = {"requests_per_s": 100.0, "p99_ms": 0.5, "simulated_requests": 1000}
    config = shards(2, memory_bytes=2**20, strategy=strategy, demand=demand)
    with pytest.raises(
        PlanError, match=r"99 % of requests take \d\S* ms or less with \d+ pods .* p99_ms is 0.5: raise it"
    ):
        make_plan(schema, statistics, config, COSTS)


def test_replicating_the_whole_model_takes_more_memory_than_auto() -> None:
    schema, statistics = model(*(table(f"t{index}", rows=100_000, dim=64, pooling=5.0 * index) for index in range(8)))
    config = shards(2, memory_bytes=2**30, strategy="auto", demand={"requests_per_s": 20_000.0}, prices=DEAR)
    found, _ = place_by_each_strategy(statistics, config, COSTS)
    whole = candidate_of(found["singular"], config, COSTS).fleet
    auto = best_candidate(schema, statistics, config, COSTS).fleet
    assert auto.memory_bytes < whole.memory_bytes / 2


def test_a_plan_has_the_number_of_rankers_that_its_load_needs() -> None:
    schema, statistics = model(table("a"), table("b"))
    config = shards(2, memory_bytes=2**20, strategy="auto", demand={"requests_per_s": 2_000.0})
    candidate = best_candidate(schema, statistics, config, COSTS)
    plan = make_plan(schema, statistics, config, COSTS)
    assert plan.rankers == candidate.fleet.rankers > 1
    assert not candidate.placement.is_singular  # though it would cost less: nothing can serve it


@pytest.mark.slow
def test_a_prediction_of_a_high_rate_is_of_as_many_requests_as_queues_need() -> None:
    schema, statistics = model(*(table(f"t{index}") for index in range(4)))
    demand = {"requests_per_s": 1e6, "simulated_requests": 1_000}  # which come within a millisecond
    config = shards(2, memory_bytes=2**20, demand=demand)
    candidate = candidate_of(place_by_each_strategy(statistics, config, COSTS)[0]["load-balanced"], config, COSTS)
    found = forecast(candidate, schema, config, COSTS)
    longer = config.model_copy(update={"demand": config.demand.model_copy(update={"simulated_requests": 100_000})})
    assert found == forecast(candidate, schema, longer, COSTS)


def test_placements_by_density_have_no_shard_over_its_memory() -> None:
    _, statistics = model(*(table(f"t{index}", rows=1000 + index, pooling=index) for index in range(12)))
    demand = {"requests_per_s": 3000.0, "p99_ms": 20.0}
    config = shards(2, memory_bytes=40_000, demand=demand)
    placements = placements_by_density(statistics, config, COSTS)
    assert len(placements) > 1
    assert all(placement.shard_bytes.max() <= config.capacity_bytes for placement in placements)
    assert placements[-1].shard_cpu_s.max() <= placements[0].shard_cpu_s.max()


@pytest.mark.parametrize("strategy", ["auto", "capacity-balanced", "nsbp", "one-shard"])
def test_a_model_that_needs_more_shards_than_a_plan_may_have_is_refused_by_every_strategy(strategy: str) -> None:
    schema, statistics = model(table("t0", rows=20_000, net="user"), table("t1", rows=20_000))
    config = shards(2, memory_bytes=107, strategy=strategy)
    with pytest.raises(PlanError, match=r"raise .*shard_memory_gib"):
        make_plan(schema, statistics, config, COSTS)
    auto = compare(schema, statistics, config, COSTS)[-1]
    assert (auto.strategy, auto.candidate) == ("auto", None)
    assert auto.problem == (
        "2 tables take 625.0 KiB, which is at least 5,982 shards of 107 B (shard_memory_gib 9.96515e-08), but a plan "
        "has at most 1024; raise shard_memory_gib"
    )


def test_auto_refuses_tables_that_fill_more_shards_than_a_plan_may_have() -> None:
    schema, statistics = model(table("t0", rows=1023 * 4, net="user"), *(table(f"i{index}", rows=1) for index in "abc"))
    config = shards(2, memory_bytes=64, strategy="auto")  # three more parts of 64 B each, though of 16 B before padding
    with pytest.raises(PlanError, match=r"auto: no placement was found for tables of 64.0 KiB on 1024 shards"):
        make_plan(schema, statistics, config, COSTS)


def cost_of(parts: Parts, shard_of: np.ndarray, config: object) -> float:
    """Return what a placement's fleet costs."""
    from exfm.planning.placement import Placement

    placement = Placement("auto", parts, shard_of, int(shard_of.max()) + 1)
    return fleet_of(needs_of(placement, COSTS), config, COSTS, utilisation=config.demand.max_utilisation).cost
