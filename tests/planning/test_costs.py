from typing import Any, Literal

import numpy as np
import pytest

from exfm.artifact.plan import Assignment, Encoding, ShardPlan, assign
from exfm.errors import ConfigError, PlanError
from exfm.planning.cost_model.costs import DEFAULT_COSTS, CostModel
from exfm.planning.cost_model.work import mass_of, pooling_variance, work_by_net
from exfm.planning.statistics import HotRows, Statistics, TableStatistics
from exfm.schema import Schema
from exfm_bench.calibration import work_of

CANDIDATES = 50.0


def table(
    name: str, net: Literal["user", "item", "both"], *, rows: int = 1000, pooling: float = 1.0, **more: Any
) -> TableStatistics:
    bags = {"user": 1.0, "item": CANDIDATES, "both": 1.0 + CANDIDATES}[net]
    defaults = {"pooling_p99": pooling, "bags_per_request": bags, "num_features": 2 if net == "both" else 1}
    values = {"name": name, "net": net, "rows": rows, "dim": 8, "request_share": 1.0, "pooling_mean": pooling}
    return TableStatistics.model_validate(values | defaults | more)


def statistics_of(*tables: TableStatistics) -> Statistics:
    return Statistics(tables=tables, num_requests=1, candidates_mean=CANDIDATES)


def plan_of(
    statistics: Statistics, assignments: list[Assignment], *, num_shards: int, encoding: Encoding = "fp32"
) -> ShardPlan:
    schema = Schema.parse(
        {
            "impression_key": "k",
            "event_time": {"column": "t"},
            "domain": "d",
            "sparse": [{"name": f"f_{t.name}", "net": "item", "table": t.name} for t in statistics.tables],
            "tables": [{"name": t.name, "rows": t.rows, "dim": t.dim} for t in statistics.tables],
            "labels": [{"name": "l", "feedback": "f", "attribution_window": 1}],
        },
        source="a test",
    )
    slices = assign(schema, assignments, num_shards, encoding=encoding)
    return ShardPlan(strategy="by-hand", num_shards=num_shards, replicas=(1,) * num_shards, slices=slices)


def test_a_whole_table_gets_all_its_bags_and_keys() -> None:
    statistics = statistics_of(table("u", "user", pooling=20.0), table("i", "item", pooling=2.0))
    plan = plan_of(statistics, [Assignment("u", 0, 0, 1000), Assignment("i", 1, 0, 1000)], num_shards=3)
    work = work_of(plan, statistics)
    assert work.request_share.tolist() == [1, 1, 0]
    assert work.lookups.tolist() == [1, 1, 0]
    assert work.bags.tolist() == [1, 50, 0]
    assert work.keys.tolist() == [20, 100, 0]
    assert work.read_bytes.tolist() == [20 * 32, 100 * 32, 0]
    assert work.request_bytes.tolist() == [20 * 8 + 4, 100 * 8 + 50 * 4, 0]
    assert work.answer_bytes.tolist() == [32, 50 * 32, 0]


def test_rows_are_read_in_their_encoding_and_answered_in_fp32() -> None:
    statistics = statistics_of(table("u", "user", pooling=20.0))
    work = work_of(plan_of(statistics, [Assignment("u", 0, 0, 1000)], num_shards=1, encoding="int8"), statistics)
    assert (work.read_bytes.tolist(), work.answer_bytes.tolist()) == ([20 * (4 + 8)], [8 * 4])


def test_row_slices_share_keys_but_each_has_every_bag() -> None:
    statistics = statistics_of(table("i", "item", pooling=4.0))
    plan = plan_of(statistics, [Assignment("i", 0, 0, 250), Assignment("i", 1, 250, 750)], num_shards=2)
    work = work_of(plan, statistics)
    assert work.keys.tolist() == [50, 150]
    assert work.bags.tolist() == [50, 50]
    assert work.answer_bytes.tolist() == [50 * 32, 50 * 32]


def test_a_hot_slice_gets_the_keys_of_hot_rows_instead_of_the_row_slices() -> None:
    skew = (HotRows(num_rows=10, mass=0.6), HotRows(num_rows=100, mass=0.9))
    statistics = statistics_of(table("u", "user", pooling=100.0, skew=skew))
    assignments = [Assignment("u", 0, 0, 500), Assignment("u", 1, 500, 500), Assignment("u", 2, 0, 10, hot=True)]
    work = work_of(plan_of(statistics, assignments, num_shards=3), statistics)
    assert work.keys == pytest.approx([20, 20, 60])
    assert work.lookups.tolist() == [1, 1, 1]


def test_tables_of_both_nets_have_their_bags_parted() -> None:
    statistics = statistics_of(table("b", "both", pooling=3.0))
    by_net = work_by_net(plan_of(statistics, [Assignment("b", 0, 0, 1000)], num_shards=1), statistics)
    assert {net: (float(work.bags[0]), float(work.keys[0])) for net, work in by_net.items()} == {
        "user": (pytest.approx(1), pytest.approx(3)),
        "item": (pytest.approx(50), pytest.approx(150)),
    }
    assert work_of(plan_of(statistics, [Assignment("b", 0, 0, 1000)], num_shards=1), statistics).nets.tolist() == [2]


def test_rows_that_were_not_counted_get_equal_shares_of_the_keys() -> None:
    assert mass_of(table("u", "user", rows=1000), 250) == pytest.approx(0.25)


def test_the_mass_of_hot_rows_rises_to_one() -> None:
    skewed = table("u", "user", rows=10_000, skew=(HotRows(num_rows=10, mass=0.3), HotRows(num_rows=100, mass=0.5)))
    masses = [mass_of(skewed, num_rows) for num_rows in (1, 5, 10, 30, 100, 1000, 10_000)]
    assert masses == sorted(masses)
    assert masses[2] == pytest.approx(0.3)
    assert masses[4] == pytest.approx(0.5)
    assert masses[-1] == pytest.approx(1.0)


def test_the_spread_of_pooling_gives_the_percentile_that_was_counted() -> None:
    counted = table("u", "user", pooling=20.0, pooling_p99=90.0)
    sigma = np.sqrt(np.log1p(pooling_variance(counted) / 20.0**2))
    keys = np.random.default_rng(0).lognormal(np.log(20.0) - sigma**2 / 2, sigma, size=200_000)
    assert keys.mean() == pytest.approx(20.0, rel=0.02)
    assert np.quantile(keys, 0.99) == pytest.approx(90.0, rel=0.03)


def test_a_plan_with_a_table_that_was_not_counted_is_refused() -> None:
    statistics = statistics_of(table("u", "user"))
    plan = plan_of(statistics, [Assignment("u", 0, 0, 1000)], num_shards=1)
    with pytest.raises(PlanError, match=r"'u'.*count it first"):
        work_of(plan, statistics_of(table("v", "user")))


def test_work_costs_its_prices() -> None:
    costs = CostModel.parse(
        DEFAULT_COSTS.to_dict()
        | {
            "shard": {"call_us": 100, "net_us": 10, "lookup_us": 5, "bag_ns": 2, "key_ns": 3, "byte_ns": 1},
            "read_byte_ns": 4,
        },
        source="a test",
    )
    statistics = statistics_of(table("u", "user", pooling=20.0))
    work = work_of(plan_of(statistics, [Assignment("u", 0, 0, 1000)], num_shards=2), statistics)
    expected_ns = 100_000 + 10_000 + 5_000 + 2 + 20 * 3 + (20 * 8 + 4 + 32) * 1 + 20 * 32 * 4
    assert costs.shard_cpu_s(work) == pytest.approx([expected_ns * 1e-9, 0])


@pytest.mark.parametrize("key", ["calls", "beside_share"])
def test_keys_of_costs_that_are_gone_are_refused_by_name(key: str) -> None:
    with pytest.raises(ConfigError, match=f"costs.yaml: .*{key} is no longer a setting: .* leave it out"):
        CostModel.parse(DEFAULT_COSTS.to_dict() | {key: 0}, source="costs.yaml")
