"""Plans are complete, within memory, and by the strategy of the settings."""

import re

import numpy as np
import pytest
from hypothesis import assume, example, given, reject
from hypothesis import strategies as st
from made_models import COSTS, demands, model, models, shard_bytes, shards, table

from exfm.artifact.plan import ENCODINGS, Encoding, ShardPlan
from exfm.artifact.rows import rows_of_keys
from exfm.errors import ConfigError, PlanError, SchemaError
from exfm.planning.config import Demand, ShardingConfig, Strategy
from exfm.planning.placement import bottleneck_of, placement_of
from exfm.planning.planner import make_plan
from exfm.planning.proposer.strategies import STRATEGIES
from exfm.planning.statistics import Statistics
from exfm.planning.topology import needs_of
from exfm.schema import Schema
from exfm_bench.calibration import work_of

Model = tuple[Schema, Statistics]

every_strategy = st.sampled_from([*STRATEGIES, "auto"])
encodings = st.sampled_from(ENCODINGS)


@pytest.mark.slow
@given(model=models(), strategy=every_strategy, num_shards=st.integers(1, 5), room=st.floats(1, 3), demand=demands)
def test_every_key_of_every_table_is_in_exactly_one_row_slice(
    model: Model, strategy: Strategy, num_shards: int, room: float, demand: Demand
) -> None:
    schema, _ = model
    plan = plan_for(model, strategy, num_shards, room, demand).check(schema)
    keys = np.random.default_rng(0).integers(2**64, size=50, dtype=np.uint64)
    for one in schema.tables:
        row_slices = [slice_ for slice_ in plan.slices if slice_.table == one.name and slice_.kind == "rows"]
        owners = np.array([
            (keys >= np.uint64(int(slice_.first_key, 16))) & (keys <= np.uint64(int(slice_.last_key, 16)))
            for slice_ in row_slices
        ])  # fmt: skip
        assert (owners.sum(axis=0) == 1).all()
        rows = rows_of_keys(keys, one.rows)
        for slice_, owned in zip(row_slices, owners, strict=True):
            assert ((rows[owned] >= slice_.first_row) & (rows[owned] < slice_.first_row + slice_.num_rows)).all()


@pytest.mark.slow
@given(
    model=models(),
    strategy=every_strategy,
    num_shards=st.integers(1, 5),
    room=st.floats(1, 3),
    demand=demands,
    encoding=encodings,
)
def test_no_shard_is_over_its_memory_and_none_is_empty(
    model: Model, strategy: Strategy, num_shards: int, room: float, demand: Demand, encoding: Encoding
) -> None:
    plan = plan_for(model, strategy, num_shards, room, demand, encoding)
    assert plan.check(model[0]).encoding == encoding
    held = shard_bytes(plan)
    assert min(held) > 0
    assert max(held) <= settings(model, strategy, num_shards, room, demand, encoding).capacity_bytes
    assert min(plan.replicas) >= demand.min_replicas


@pytest.mark.slow
@given(model=models(min_tables=3), strategy=every_strategy)
def test_a_plan_survives_json_and_is_the_same_when_made_again(model: Model, strategy: Strategy) -> None:
    plan = plan_for(model, strategy, 2, 3.0, Demand())
    assert ShardPlan.parse(plan.to_dict(), source="test") == plan
    assert plan_for(model, strategy, 2, 3.0, Demand()) == plan


@pytest.mark.slow
@given(model=models(min_tables=2), num_shards=st.integers(2, 5))
def test_shards_of_nsbp_have_tables_of_one_net(model: Model, num_shards: int) -> None:
    plan = plan_for(model, "nsbp", num_shards, 3.0, Demand())
    nets = {one.name: one.net for one in model[1].tables}
    assert all(len({nets[slice_.table] for slice_ in plan.slices_on(shard)}) == 1 for shard in range(num_shards))


@pytest.mark.slow
@given(model=models(), demand=demands, strategy=every_strategy, encoding=encodings)
def test_parts_are_priced_as_the_plan_made_of_them(
    model: Model, demand: Demand, strategy: Strategy, encoding: Encoding
) -> None:
    _, statistics = model
    plan = plan_for(model, strategy, 2, 3.0, demand, encoding)
    assume(not plan.strategy.endswith("singular"))
    needs = needs_of(placement_of(plan, statistics, COSTS), COSTS)
    work = work_of(plan, statistics)
    np.testing.assert_allclose(needs.shard_cpu_s, COSTS.shard_cpu_s(work))
    np.testing.assert_allclose(needs.ranker_cpu_s, COSTS.ranker_cpu_s(work, statistics.candidates_mean))


@pytest.mark.slow
@given(
    model=models(min_tables=2, max_tables=6),
    strategy=st.sampled_from(["capacity-balanced", "load-balanced", "nsbp"]),
    num_shards=st.integers(2, 5),
    room=st.floats(1, 2),
    encoding=encodings,
)
@example(
    model=model(
        table("u0", rows=1020, dim=16, net="user"),
        table("u1", rows=400, dim=16, net="user"),
        table("i0", rows=100, dim=16),
    ),
    strategy="nsbp",
    num_shards=3,
    room=1.96,
    encoding="fp32",
)
def test_no_placement_is_below_its_bound_though_tables_are_split(
    model: Model, strategy: Strategy, num_shards: int, room: float, encoding: Encoding
) -> None:
    config = settings(model, strategy, num_shards, room, Demand(), encoding)
    assume(max(one.size_bytes(encoding) for one in model[1].tables) > config.capacity_bytes)
    try:
        placement = STRATEGIES[strategy](model[1], config, COSTS)
    except PlanError:
        reject()
    assert placement.bound is not None
    assert bottleneck_of(placement) >= placement.bound * (1 - 1e-9)


@pytest.mark.parametrize(
    ("strategy", "unit"),
    [("singular", "cpu_s"), ("one-shard", "cpu_s"), ("load-balanced", "cpu_s"), ("capacity-balanced", "size_bytes"),
     ("nsbp", "size_bytes")],
)  # fmt: skip
def test_parts_are_weighed_in_the_unit_of_the_bottleneck(strategy: Strategy, unit: str) -> None:
    _, statistics = model(table("u", rows=300, net="user"), table("i", rows=200), table("j", rows=100))
    placement = STRATEGIES[strategy](statistics, shards(2, memory_bytes=2**16), COSTS)
    np.testing.assert_array_equal(placement.parts.weights(placement.balances), getattr(placement.parts, unit))
    assert bottleneck_of(placement) == np.bincount(placement.shard_of, getattr(placement.parts, unit)).max()


def test_unequal_pieces_do_not_raise_the_bound_of_nsbp() -> None:
    users = table("u0", rows=1020, dim=16, net="user"), table("u1", rows=400, dim=16, net="user")
    _, statistics = model(*users, table("i0", rows=100, dim=16))
    placement = STRATEGIES["nsbp"](statistics, shards(3, memory_bytes=64 * 1000, strategy="nsbp"), COSTS)
    assert placement.bound is not None
    assert (placement.bound, bottleneck_of(placement)) == (710 * 64, 710 * 64)
    tight = shards(3, memory_bytes=64 * 900, strategy="nsbp")  # a half of u0 and all of u1 would not fit together
    assert bottleneck_of(STRATEGIES["nsbp"](statistics, tight, COSTS)) == 710 * 64


def test_the_largest_tables_part_company() -> None:
    schema, statistics = model(*(table(f"t{index}", rows=rows) for index, rows in enumerate([100, 90, 20, 10])))
    plan = make_plan(schema, statistics, shards(2, memory_bytes=2**20), COSTS)
    assert {frozenset(s.table for s in plan.slices_on(shard)) for shard in range(2)} == {
        frozenset({"t0", "t3"}),
        frozenset({"t1", "t2"}),
    }


def test_a_table_over_a_shards_memory_is_split_by_rows() -> None:
    schema, statistics = model(table("large", rows=1000, dim=16), table("small", rows=10, dim=16))
    plan = make_plan(schema, statistics, shards(3, memory_bytes=22 * 1024), COSTS)
    slices = plan.by_table()["large"]
    assert sum(slice_.num_rows for slice_ in slices) == 1000
    assert len({slice_.shard for slice_ in slices}) == 3
    assert max(shard_bytes(plan)) - min(shard_bytes(plan)) <= 2 * 64, "rows fill up what the other table leaves uneven"


def test_load_balanced_balances_load() -> None:
    schema, statistics = model(
        table("busy", pooling=1000), table("also", pooling=1000), table("large", rows=4000), table("fat", rows=4000)
    )
    config = shards(2, memory_bytes=2**20, strategy="load-balanced")
    plan = make_plan(schema, statistics, config, COSTS)
    assert {slice_.shard for name in ("busy", "also") for slice_ in plan.by_table()[name]} == {0, 1}


def test_replicas_follow_the_load() -> None:
    schema, statistics = model(table("busy", pooling=1000), table("idle", pooling=0))
    config = shards(2, memory_bytes=2**20, demand={"requests_per_s": 1000, "max_utilisation": 0.5})
    plan = make_plan(schema, statistics, config, COSTS)
    cpu_s = COSTS.shard_cpu_s(work_of(plan, statistics))
    assert plan.replicas == tuple(int(np.ceil(1000 * each / 0.5)) for each in cpu_s)
    assert max(plan.replicas) > min(plan.replicas)


def test_a_table_larger_than_all_shards_together_is_refused_with_the_numbers() -> None:
    schema, statistics = model(table("t0", rows=300))
    problem = "1 tables take 4800 B, of which 't0' takes 4800 B, but 2 shards of 2048 B have 4096 B together; raise"
    with pytest.raises(PlanError, match=problem):
        make_plan(schema, statistics, shards(2, memory_bytes=2048), COSTS)


def test_tables_larger_than_all_shards_together_are_refused_with_the_numbers() -> None:
    schema, statistics = model(*(table(f"t{index}") for index in range(3)))
    with pytest.raises(
        PlanError,
        match="3 tables take 4800 B, of which 't0' takes 1600 B, but 2 shards of 2048 B have 4096 B together; raise",
    ):
        make_plan(schema, statistics, shards(2, memory_bytes=2048), COSTS)


def test_the_setting_that_forbade_to_split_tables_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="split_rows is no longer a setting: tables that are larger than a shard are"):
        shards(2, memory_bytes=1024, split_rows=False)


def test_a_row_larger_than_a_shard_is_refused() -> None:
    schema, statistics = model(table("t0", rows=2, dim=64), table("t1"))
    with pytest.raises(PlanError, match="a row of table 't0' takes 256 B, but a shard has 128 B"):
        make_plan(schema, statistics, shards(1000, memory_bytes=128), COSTS)


def test_tables_that_no_placement_fits_are_refused_with_the_numbers() -> None:
    schema, statistics = model(*(table(f"t{index}", rows=60) for index in range(3)))
    config = shards(2, memory_bytes=1856)
    with pytest.raises(
        PlanError, match=r"3 parts of 3 tables, the largest 960 B, on 2 shards of 1856 B; the parts take 77"
    ):
        make_plan(schema, statistics, config, COSTS)


def test_a_shard_too_small_for_all_is_refused_by_one_shard_with_the_numbers() -> None:
    schema, statistics = model(table("t0"), table("t1"))
    with pytest.raises(PlanError, match="one-shard: all tables take 3200 B, but a shard has 2048 B; raise"):
        make_plan(schema, statistics, shards(2, memory_bytes=2048, strategy="one-shard"), COSTS)


def test_more_shards_than_tables_are_refused() -> None:
    schema, statistics = model(table("t0"), table("t1"))
    with pytest.raises(PlanError, match="3 shards for 2 tables"):
        make_plan(schema, statistics, shards(3, memory_bytes=2**20), COSTS)


def test_one_shard_for_two_nets_is_refused_by_nsbp() -> None:
    schema, statistics = model(table("t0", net="user"), table("t1", net="item"))
    with pytest.raises(PlanError, match="2 nets need at least 1 shard each"):
        make_plan(schema, statistics, shards(1, memory_bytes=2**20, strategy="nsbp"), COSTS)


def test_statistics_of_another_model_are_refused() -> None:
    schema, statistics = model(table("t0"), table("t1"))
    config = shards(2, memory_bytes=2**20)
    with pytest.raises(PlanError, match="table 't1' of the schema is not in the statistics"):
        make_plan(schema, model(table("t0"))[1], config, COSTS)
    with pytest.raises(PlanError, match="'t1' has 100 rows of dim 4, but was counted with 7 of dim 4"):
        make_plan(schema, model(table("t0"), table("t1", rows=7))[1], config, COSTS)
    with pytest.raises(PlanError, match="the statistics have table 't1', which the schema does not"):
        make_plan(model(table("t0"))[0], statistics, config, COSTS)


def test_a_plan_for_another_schema_is_refused() -> None:
    schema, statistics = model(table("t0"), table("t1"))
    plan = make_plan(schema, statistics, shards(2, memory_bytes=2**20), COSTS)
    with pytest.raises(PlanError, match="places table t1, which the schema does not have"):
        plan.check(model(table("t0"))[0])
    with pytest.raises(PlanError, match="table 't1' has 101 rows, but the plan places 100"):
        plan.check(model(table("t0"), table("t1", rows=101))[0])


def test_tables_named_twice_or_without_rows_are_refused() -> None:
    schema = model(table("t0"))[0].to_dict()
    with pytest.raises(SchemaError, match="table 't0' is named more than once"):
        Schema.parse(schema | {"tables": 2 * schema["tables"]}, source="test")
    data = table("t0").to_dict()
    with pytest.raises(ConfigError, match="tables 't0' are named more than once"):
        Statistics.parse({"tables": [data, data], "num_requests": 1, "candidates_mean": 1}, source="test")
    with pytest.raises(ConfigError, match=r"tables.0.rows: expected at least 1 \(found 0\)"):
        Statistics.parse({"tables": [data | {"rows": 0}], "num_requests": 1, "candidates_mean": 1}, source="test")


def test_a_latency_without_a_load_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"p99_ms is 5, but requests_per_s is 0: .*; set requests_per_s"):
        shards(2, memory_bytes=2**20, demand={"p99_ms": 5})


def test_nets_that_no_division_of_the_shards_has_room_for_are_refused_with_the_numbers() -> None:
    schema, statistics = model(table("u", rows=96, net="user"), *(table(f"i{index}", rows=64) for index in range(4)))
    config = shards(3, memory_bytes=1900, strategy="nsbp")
    with pytest.raises(
        PlanError,
        match="user net's tables take 1536 B as stored, the item net's 4096 B; no division of 3 shards of 1900",
    ):
        make_plan(schema, statistics, config, COSTS)


def settings(
    model: Model, strategy: Strategy, num_shards: int, room: float, demand: Demand, encoding: Encoding = "fp32"
) -> ShardingConfig:
    """Return settings for shards that have `room` for the model together, and for a row and a slice's end each."""
    memory_bytes = int(room * model[1].size_bytes(encoding) / num_shards) + 512
    return shards(num_shards, memory_bytes=memory_bytes, strategy=strategy, demand=demand.to_dict(), encoding=encoding)


def plan_for(
    model: Model, strategy: Strategy, num_shards: int, room: float, demand: Demand, encoding: Encoding = "fp32"
) -> ShardPlan:
    """Return the plan; pass over models with too few tables, or too little room beside them, for so many shards."""
    try:
        return make_plan(*model, settings(model, strategy, num_shards, room, demand, encoding), COSTS)
    except PlanError as error:
        if not re.search(
            "one shard per table|need at least 1 shard each|no placement was found|between the nets|all tables take",
            str(error),
        ):
            raise
        reject()


def test_a_shard_that_holds_no_slice_is_no_setting() -> None:
    with pytest.raises(ConfigError, match=r"shard_memory_gib: expected at least 2\*\*-24"):
        ShardingConfig.parse({"shard_memory_gib": 1e-12}, source="test")
