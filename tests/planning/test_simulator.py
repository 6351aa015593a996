from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from exfm.artifact.plan import Assignment, ShardPlan, assign
from exfm.errors import PlanError
from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm.planning.simulation.simulator import Load, Prediction, draw_requests, simulate, simulate_requests
from exfm.planning.statistics import Statistics, TableStatistics
from exfm.schema import Schema
from exfm_bench.calibration import work_of

CANDIDATES = 100
QUIET = Load(requests_per_s=10, num_requests=2_000, num_warmup=100)


def model_of(*uses: tuple[Literal["user", "item"], int, float]) -> tuple[Schema, Statistics]:
    """Return a model whose tables have these nets, rows and pooling factors."""
    names = [f"t{index}" for index in range(len(uses))]
    schema = Schema.parse(
        {
            "impression_key": "k",
            "event_time": {"column": "t"},
            "domain": "d",
            "sparse": [
                {"name": f"f_{name}", "net": net, "table": name} for name, (net, _, _) in zip(names, uses, strict=True)
            ],
            "tables": [{"name": name, "rows": rows, "dim": 64} for name, (_, rows, _) in zip(names, uses, strict=True)],
            "labels": [{"name": "l", "feedback": "f", "attribution_window": 1}],
        },
        source="a test",
    )
    tables = tuple(
        TableStatistics(
            name=name,
            net=net,
            rows=rows,
            dim=64,
            request_share=1,
            bags_per_request=1 if net == "user" else CANDIDATES,
            pooling_mean=pooling,
            pooling_p99=3 * pooling if pooling > 1 else 1,
        )
        for name, (net, rows, pooling) in zip(names, uses, strict=True)
    )
    return schema, Statistics(tables=tables, num_requests=1, candidates_mean=CANDIDATES)


TWO_NETS = model_of(*[("user", 100_000, 20.0), ("item", 100_000, 2.0)] * 32)
"""64 tables, users' and items' in turn."""


def plan_of(schema: Schema, shard_of: list[int], *, replicas: int = 1) -> ShardPlan:
    """Return a plan with each table whole on the given shard."""
    num_shards = max(shard_of) + 1
    assignments = [
        Assignment(table.name, shard, 0, table.rows) for table, shard in zip(schema.tables, shard_of, strict=True)
    ]
    slices = assign(schema, assignments, num_shards)
    return ShardPlan(strategy="by-hand", num_shards=num_shards, replicas=(replicas,) * num_shards, slices=slices)


def predict(plan: ShardPlan, statistics: Statistics, load: Load = QUIET, **more: Any) -> Prediction:
    costs = DEFAULT_COSTS.model_copy(update=more.pop("costs", {}))
    return simulate(plan, statistics, costs, load, **{"rankers": 1, "seed": 0} | more)


ONE_SHARD = [0] * 64
FOUR_MIXED = [index // 16 for index in range(64)]
FOUR_BY_NET = [index % 2 + 2 * (index // 32) for index in range(64)]
"""The nets' tables on two shards each."""


def test_one_shard_is_the_slowest_of_sharded_plans() -> None:
    schema, statistics = TWO_NETS
    p50_ms = [predict(plan_of(schema, where), statistics).p50_ms for where in (ONE_SHARD, FOUR_MIXED, FOUR_BY_NET)]
    assert p50_ms[0] > max(p50_ms[1:])


def test_shards_of_one_net_need_less_cpu_though_calls_are_as_many() -> None:
    schema, statistics = TWO_NETS
    mixed, by_net = (predict(plan_of(schema, where), statistics) for where in (FOUR_MIXED, FOUR_BY_NET))
    assert by_net.calls == mixed.calls == 4
    assert by_net.cpu_ms < mixed.cpu_ms


def test_more_shards_for_a_table_split_by_rows_make_nothing_faster() -> None:
    """One huge table that a request reads one row of, and many small ones."""
    schema, statistics = model_of(("user", 4_000_000, 1.0), *[("item", 1_000, 1.0)] * 3)
    p50_ms = []
    for num_slices in (2, 4, 8):
        rows = 4_000_000 // num_slices
        assignments = [Assignment("t0", shard, shard * rows, rows) for shard in range(num_slices)]
        assignments += [Assignment(f"t{index}", num_slices, 0, 1_000) for index in (1, 2, 3)]
        slices = assign(schema, assignments, num_slices + 1)
        replicas = (1,) * (num_slices + 1)
        plan = ShardPlan(strategy="by-hand", num_shards=num_slices + 1, replicas=replicas, slices=slices)
        p50_ms.append(predict(plan, statistics).p50_ms)
    assert p50_ms[1] > 0.98 * p50_ms[0]
    assert p50_ms[2] > 0.98 * p50_ms[0]


def test_the_same_seed_predicts_the_same() -> None:
    schema, statistics = TWO_NETS
    plan = plan_of(schema, FOUR_MIXED)
    assert predict(plan, statistics) == predict(plan, statistics)
    assert predict(plan, statistics) != predict(plan, statistics, seed=1)


def test_cpu_time_and_utilisation_follow_the_cost_model() -> None:
    schema, statistics = TWO_NETS
    plan = plan_of(schema, FOUR_BY_NET, replicas=2)
    load = Load(requests_per_s=100, num_requests=20_000)
    predicted = predict(plan, statistics, load, costs={"ranker_cold_us": 0.0, "shard_cold_us": 0.0})
    work = work_of(plan, statistics)
    shard_cpu_s = DEFAULT_COSTS.shard_cpu_s(work)
    ranker_cpu_s = DEFAULT_COSTS.ranker_cpu_s(work, CANDIDATES)
    assert predicted.ranker_cpu_ms == pytest.approx(ranker_cpu_s * 1e3, rel=0.01)
    assert predicted.cpu_ms == pytest.approx((ranker_cpu_s + shard_cpu_s.sum()) * 1e3, rel=0.01)
    assert predicted.ranker_utilisation == pytest.approx(100 * ranker_cpu_s, rel=0.01)
    assert predicted.shard_utilisation == pytest.approx(100 * shard_cpu_s / 2, rel=0.01)


def test_load_makes_waiting_and_replicas_take_it_away() -> None:
    schema, statistics = TWO_NETS
    busy = Load(requests_per_s=1_500, num_requests=5_000)
    quiet, alone, helped = (
        predict(plan_of(schema, ONE_SHARD, replicas=replicas), statistics, load, rankers=20)
        for load, replicas in ((QUIET, 1), (busy, 3), (busy, 20))
    )
    assert quiet.p99_ms < helped.p99_ms < alone.p99_ms


def test_a_load_above_what_the_servers_can_do_is_an_overload() -> None:
    schema, statistics = TWO_NETS
    plan = plan_of(schema, ONE_SHARD)
    assert not predict(plan, statistics).is_overloaded
    assert predict(plan, statistics, Load(requests_per_s=2_000, num_requests=1_000)).is_overloaded


def test_requests_of_varying_size_take_as_much_time_in_the_mean_and_longer_at_the_end() -> None:
    schema, statistics = TWO_NETS
    plan = plan_of(schema, FOUR_MIXED)
    same = Load(requests_per_s=10, num_requests=2_000)
    varying = same.model_copy(update={"candidates_p99": 500.0})
    same_p, varying_p = (predict(plan, statistics, load) for load in (same, varying))
    assert varying_p.cpu_ms == pytest.approx(same_p.cpu_ms, rel=0.1)
    assert varying_p.p99_ms > same_p.p99_ms


def test_larger_requests_take_longer() -> None:
    schema, statistics = TWO_NETS
    plan, load = plan_of(schema, FOUR_MIXED), Load(requests_per_s=10, num_requests=2_000)
    drawn = draw_requests(load, statistics, np.random.default_rng(0))
    same_p, larger_p = (
        simulate_requests(requests, plan, statistics, DEFAULT_COSTS, load, rankers=1, seed=0)
        for requests in (drawn, replace(drawn, candidates=10 * drawn.candidates))
    )
    assert larger_p.p50_ms > 1.5 * same_p.p50_ms


def test_no_ranker_is_an_error() -> None:
    schema, statistics = TWO_NETS
    with pytest.raises(PlanError, match="0 rankers"):
        predict(plan_of(schema, ONE_SHARD), statistics, rankers=0)
