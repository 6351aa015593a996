"""A plan made from an old one moves little, and says how much."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from made_models import COSTS, demands, model, models, shard_bytes, shards, table

from exfm.artifact.plan import ShardPlan
from exfm.errors import PlanError
from exfm.planning.config import Demand, ShardingConfig, Strategy
from exfm.planning.planner import make_plan
from exfm.planning.proposer.strategies import STRATEGIES
from exfm.planning.replanning.moves import moved_bytes
from exfm.planning.replanning.replanner import replan
from exfm.planning.statistics import Statistics, TableStatistics
from exfm.schema import Schema

Model = tuple[Schema, Statistics]

every_strategy = st.sampled_from([*STRATEGIES, "auto"])


@pytest.mark.slow
@given(model=models(min_tables=4), strategy=every_strategy, demand=demands)
def test_nothing_moves_if_nothing_changed(model: Model, strategy: Strategy, demand: Demand) -> None:
    config = settings(model, strategy, demand)
    old = plan_for(model, config)
    found = replan(old, *model, config, COSTS)
    assert found.moved_bytes == found.least_bytes == 0
    assert found.plan == old


@pytest.mark.slow
@given(
    model=models(min_tables=4),
    grown=models(min_tables=4),
    strategy=every_strategy,
    demand=demands,
    num_shards=st.integers(2, 4),
)
def test_a_new_plan_moves_no_more_than_one_from_nothing_and_no_less_than_it_must(
    model: Model, grown: Model, strategy: Strategy, demand: Demand, num_shards: int
) -> None:
    old = plan_for(model, settings(model, strategy, demand))
    config = settings(grown, strategy, demand, num_shards=num_shards)
    plan_for(grown, config)
    found = replan(old, *grown, config, COSTS)
    found.plan.check(grown[0])
    assert max(shard_bytes(found.plan)) <= config.capacity_bytes
    assert min(shard_bytes(found.plan)) > 0
    assert found.moved_bytes == moved_bytes(found.plan, old)
    assert found.least_bytes <= found.moved_bytes <= found.fresh_bytes


def test_a_new_table_moves_alone() -> None:
    before = [table(f"t{index}", rows=100 + index) for index in range(8)]
    old = make_plan(*model(*before), shards(2, memory_bytes=2**16), COSTS)
    found = replan(old, *model(*before, table("new", rows=10)), shards(2, memory_bytes=2**16), COSTS)
    assert found.moved_bytes == found.least_bytes == 10 * 4 * 4
    assert found.headline() == f"moves 160 B (a plan from scratch: {found.fresh_bytes} B; at least: 160 B)"


def test_rows_of_another_encoding_are_other_rows_though_they_take_as_many_bytes() -> None:
    schema, statistics = model(table("a", rows=100), table("b", rows=90))
    before, after = (shards(2, memory_bytes=2**16, encoding=encoding) for encoding in ("fp16", "int8"))
    old = make_plan(schema, statistics, before, COSTS)
    found = replan(old, schema, statistics, after, COSTS)
    assert [slice_.size_bytes for slice_ in found.plan.slices] == [slice_.size_bytes for slice_ in old.slices]
    assert found.plan.encoding == "int8"
    assert found.moved_bytes == found.least_bytes == 190 * 8


def test_renumbering_spares_what_another_order_of_shards_would_move() -> None:
    schema, statistics = model(table("a", rows=100), table("b", rows=90), table("c", rows=80))
    plan = make_plan(schema, statistics, shards(3, memory_bytes=2**16), COSTS)
    turned = plan.model_copy(
        update={"slices": tuple(s.model_copy(update={"shard": (s.shard + 1) % 3}) for s in plan.slices)}
    )
    assert moved_bytes(plan, turned) == 270 * 16
    assert replan(turned, schema, statistics, shards(3, memory_bytes=2**16), COSTS).fresh_bytes == 0


def test_a_shard_that_got_too_small_loses_as_few_bytes_as_can_be() -> None:
    tables = [table(f"t{index}", rows=rows) for index, rows in enumerate([512, 256, 128, 64])]
    before = make_plan(*model(*tables), shards(2, memory_bytes=2**16, strategy="one-shard"), COSTS)
    found = replan(before, *model(*tables), shards(2, memory_bytes=512 * 16, replan_tolerance=0.2), COSTS)
    assert found.least_bytes == 448 * 16
    assert found.moved_bytes == 448 * 16


def test_shards_that_are_gone_give_their_tables_away() -> None:
    tables = [table(f"t{index}", rows=64) for index in range(4)]
    before = make_plan(*model(*tables), shards(4, memory_bytes=2**16), COSTS)
    found = replan(before, *model(*tables), shards(2, memory_bytes=2**16), COSTS)
    assert found.moved_bytes == found.least_bytes == 2 * 64 * 16


def test_on_one_shard_every_plan_moves_the_same() -> None:
    tables = [table(f"t{index}", rows=64) for index in range(3)]
    before = make_plan(*model(*tables), shards(3, memory_bytes=2**16), COSTS)
    found = replan(before, *model(*tables), shards(3, memory_bytes=2**16, strategy="one-shard"), COSTS)
    assert found.moved_bytes == found.fresh_bytes == found.least_bytes == 2 * 64 * 16


def test_a_table_of_other_rows_is_new() -> None:
    schema, statistics = model(table("a", rows=64), table("b", rows=64))
    old = make_plan(schema, statistics, shards(2, memory_bytes=2**16), COSTS)
    found = replan(old, *model(table("a", rows=64), table("b", rows=128)), shards(2, memory_bytes=2**16), COSTS)
    assert found.moved_bytes == 128 * 16


def test_load_that_shifts_moves_tables_only_beyond_the_tolerance() -> None:
    def loads(first: float) -> list[TableStatistics]:
        return [table("a", rows=64, pooling=first), table("b", rows=64, pooling=100), table("c", rows=64, pooling=100),
                table("d", rows=64, pooling=100)]  # fmt: skip

    config = shards(2, memory_bytes=2**16, strategy="load-balanced", replan_tolerance=0.1)
    old = make_plan(*model(*loads(100)), config, COSTS)
    assert replan(old, *model(*loads(110)), config, COSTS).moved_bytes == 0
    assert replan(old, *model(*loads(300)), config, COSTS).moved_bytes == 64 * 16


def test_auto_that_places_by_net_still_repairs_an_old_plan_without_nets() -> None:
    users = [table(f"u{index}", rows=1000, dim=16, net="user", pooling=3000) for index in range(4)]
    both_nets = model(*users, *(table(f"i{index}", rows=1000, dim=16, pooling=5) for index in range(2)))
    old = make_plan(*both_nets, shards(2, memory_bytes=2**20), COSTS)
    demand = {"requests_per_s": 275.0, "p99_ms": 7.9, "simulated_requests": 1000}
    config = shards(3, memory_bytes=2 * 64_000 + 4096, strategy="auto", demand=demand)
    fresh = make_plan(*both_nets, config, COSTS)
    nets = [{slice_.table[0] for slice_ in fresh.slices_on(shard)} for shard in range(3)]
    assert (fresh.strategy, nets.count({"u"})) == ("auto: nsbp", old.num_shards), "items would get none of the shards"
    assert replan(old, *both_nets, config, COSTS).plan.check(both_nets[0])


def test_auto_makes_no_singular_plan_of_a_singular_one() -> None:
    schema, statistics = model(*(table(f"t{index}", rows=1000, dim=64, pooling=2000) for index in range(4)))
    old = make_plan(schema, statistics, shards(1, memory_bytes=2**21, strategy="singular"), COSTS)
    demand = {"requests_per_s": 0.1, "p99_ms": 36.0, "simulated_requests": 1000}  # one shard takes longer
    config = shards(4, memory_bytes=2**21, strategy="auto", demand=demand)
    assert replan(old, schema, statistics, config, COSTS).plan.strategy == "auto"


def test_a_plan_of_another_model_is_refused() -> None:
    old = make_plan(*model(table("a"), table("b")), shards(2, memory_bytes=2**16), COSTS)
    with pytest.raises(PlanError, match="has 2 tables, and none of the schema's 3: it is for another model"):
        replan(old, *model(table("c"), table("d"), table("e")), shards(2, memory_bytes=2**16), COSTS)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"shard": 7}, "places table 'a' on shard 7, but has 2 shards, from 0 on"),
        ({"first_row": 3}, "has a slice of table 'a' from row 3 on, expected 0"),
        ({"kind": "hot"}, "has hot rows of table 'a', but not the table itself"),
    ],
)
def test_an_old_plan_that_contradicts_itself_is_refused(change: dict[str, object], problem: str) -> None:
    schema, statistics = model(table("a"), table("b"))
    config = shards(2, memory_bytes=2**16)
    old = make_plan(schema, statistics, config, COSTS)
    slices = tuple(s.model_copy(update=change) if s.table == "a" else s for s in old.slices)
    with pytest.raises(PlanError, match=f"the old plan {problem}"):
        replan(old.model_copy(update={"slices": slices}), schema, statistics, config, COSTS)
    with pytest.raises(PlanError, match="the old plan has 2 shards, but replicas for 1"):
        replan(old.model_copy(update={"replicas": (1,)}), schema, statistics, config, COSTS)


def test_an_old_plan_with_a_table_of_two_dims_is_refused() -> None:
    schema, statistics = model(table("a", rows=512), table("b"))
    config = shards(3, memory_bytes=256 * 16)
    old = make_plan(schema, statistics, config, COSTS)
    first = old.by_table()["a"][0]
    slices = tuple(s.model_copy(update={"size_bytes": 2 * s.size_bytes}) if s == first else s for s in old.slices)
    with pytest.raises(PlanError, match="slices of table 'a' whose rows take different bytes"):
        replan(old.model_copy(update={"slices": slices}), schema, statistics, config, COSTS)


def settings(model: Model, strategy: Strategy, demand: Demand, *, num_shards: int = 3) -> ShardingConfig:
    """Return settings for shards that together have room for the model twice, or for all of it where it must be."""
    total_bytes = sum(one.size_bytes("fp32") for one in model[1].tables) + 64 * len(model[1].tables)
    room = 1.0 if strategy in {"one-shard", "singular"} else 2.0 / num_shards
    memory_bytes = int(room * total_bytes) + 512
    return shards(num_shards, memory_bytes=memory_bytes, strategy=strategy, demand=demand.to_dict())


def plan_for(model: Model, config: ShardingConfig) -> ShardPlan:
    """Return the plan, and pass over models that have none."""
    try:
        return make_plan(*model, config, COSTS)
    except PlanError as error:
        assume("need at least 1 shard each" not in str(error) and "one shard per table" not in str(error))
        raise
