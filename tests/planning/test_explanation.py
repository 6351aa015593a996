"""A plan's reasons, told of one table."""

import pytest
from made_models import COSTS, model, shards, table

from exfm.errors import PlanError
from exfm.planning.planner import best_candidate, make_plan
from exfm.planning.reporting.explanation import explain
from exfm.planning.sizes import three_digits
from exfm.planning.statistics import TableStatistics


def explained(
    name: str, *tables: TableStatistics, num_shards: int = 2, memory_bytes: int = 2**20, **settings: object
) -> str:
    config = shards(num_shards, memory_bytes=memory_bytes, **settings)
    schema, statistics = model(*tables)
    return " ".join(explain(name, make_plan(schema, statistics, config, COSTS), statistics, config, COSTS))


def test_it_says_what_a_table_is() -> None:
    text = explained("b", table("a", rows=300), table("b", rows=100, net="user", pooling=3))
    assert "b (user net) has 100 rows of dim 4: 1600 B in fp32, 25.0% of all bytes, number 2 of 2 in size" in text
    assert "A request reads 3 rows of it" in text


def test_it_says_how_a_move_to_another_shard_would_change_the_balance() -> None:
    text = explained("a", table("a", rows=300), table("b", rows=200), table("c", rows=90))
    assert "balances bytes" in text
    assert "the fullest shard's size would rise from 4800 B to 9472 B" in text


def test_it_says_where_there_is_no_room() -> None:
    text = explained("a", table("a", rows=64), table("b", rows=64), memory_bytes=1600)
    assert "1 of 1 other shards have no room for it" in text


def test_it_says_why_a_table_is_split() -> None:
    text = explained("a", table("a", rows=1000), table("b", rows=10), num_shards=3, memory_bytes=6400)
    assert "split by ranges of keys into 3 slices, because it is 2.50 times as large as a shard (6400 B)" in text


def test_it_says_which_net_a_shard_is_for() -> None:
    text = explained("a", *(table(name, net=net) for name, net in (("a", "user"), ("b", "item"), ("c", "item"))),
                     num_shards=3, strategy="nsbp")  # fmt: skip
    assert "Only shards of this net may have it: 0 others." in text


def test_it_says_why_rows_are_copied() -> None:
    text = explained(
        "skewed",
        table("skewed", rows=400_000, dim=64, pooling=50, hot=(1000, 0.95)),
        table("even", rows=1000, dim=64),
        memory_bytes=2**28,
        strategy="auto",
        demand={"requests_per_s": 20_000.0},
        prices={"gib": 1000.0, "overhead_gib": 0.0},
    )
    assert "Its 1,000 hottest rows (250.0 KiB) are on shard" in text
    assert "0.25% of its rows get 95% of its keys. A copy of these rows is on " in text
    assert "groups slices with similar work per byte" in text


def test_it_says_that_one_shard_has_all() -> None:
    assert "The plan (one-shard) has one shard, so all tables are on it." in explained(
        "a", table("a"), strategy="one-shard"
    )
    assert "are in every ranker, as all tables are" in explained("a", table("a"), strategy="singular")


def test_a_table_that_is_not_there_is_refused_with_some_that_are() -> None:
    with pytest.raises(PlanError, match="the plan of 2 tables has no table 'x'; name one of its tables, such as a, b"):
        explained("x", table("a"), table("b"))


def test_a_strategy_of_another_version_is_not_explained() -> None:
    config = shards(2, memory_bytes=2**20)
    schema, statistics = model(table("a", rows=300), table("b", rows=200))
    plan = make_plan(schema, statistics, config, COSTS).model_copy(update={"strategy": "size-balanced"})
    text = " ".join(explain("a", plan, statistics, config, COSTS))
    assert text.endswith(
        "The plan has strategy 'size-balanced', which this version does not know, so it cannot explain the shard."
    )


@pytest.mark.parametrize(("limit", "takes"), [({}, "plan: "), ({"p99_ms": 500.0}, "plan within p99_ms (500): ")])
def test_it_says_what_auto_took(limit: dict[str, float], takes: str) -> None:
    tables = [table(f"t{index}", rows=1000 * index, pooling=index) for index in range(1, 5)]
    config = shards(2, memory_bytes=2**20, strategy="auto", demand={"requests_per_s": 5000.0})
    fleet = best_candidate(*model(*tables), config, COSTS).fleet
    schema, statistics = model(*tables)
    plan = make_plan(schema, statistics, config, COSTS)
    limited = shards(2, memory_bytes=2**20, strategy="auto", demand={"requests_per_s": 5000.0} | limit)
    text = " ".join(explain("t1", plan, statistics, limited, COSTS))
    assert f"auto takes the cheapest {takes}the {fleet.pods} pods of this one cost {three_digits(fleet.cost)}." in text


def test_it_says_what_auto_does_without_a_load() -> None:
    text = explained("a", table("a"), table("b"), strategy="auto", demand={"min_replicas": 2})
    assert "auto takes the cheapest plan: the 4 pods of this one cost" in text
    assert "The settings have no load (demand.requests_per_s), so every shard has 2 servers, and the fewest" in text


def test_the_cost_is_that_of_the_plans_own_servers() -> None:
    schema, statistics = model(table("a"), table("b"))
    config = shards(2, memory_bytes=2**20, strategy="auto", demand={"requests_per_s": 5000.0})
    plan = make_plan(schema, statistics, config, COSTS)
    pods = plan.rankers + sum(plan.replicas)
    text = " ".join(explain("a", plan.model_copy(update={"rankers": plan.rankers + 7}), statistics, config, COSTS))
    assert f"the {pods + 7} pods of this one cost" in text


def test_a_plan_of_another_strategy_says_nothing_of_auto() -> None:
    assert "auto" not in explained("a", table("a", rows=300), table("b", rows=200))
