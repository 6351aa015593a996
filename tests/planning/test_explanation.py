"""A plan's reasons, told of one table."""

import pytest
from made_models import COSTS, model, shards, table

from exfm.errors import PlanError
from exfm.planning.planner import make_plan
from exfm.planning.statistics import TableStatistics
from exfm.planning.telling.explanation import explain


def explained(
    name: str, *tables: TableStatistics, num_shards: int = 2, memory_bytes: int = 2**20, **settings: object
) -> str:
    config = shards(num_shards, memory_bytes=memory_bytes, **settings)
    schema, statistics = model(*tables)
    return " ".join(explain(name, make_plan(schema, statistics, config, COSTS), statistics, config, COSTS))


def test_it_says_what_a_table_is() -> None:
    text = explained("b", table("a", rows=300), table("b", rows=100, net="user", pooling=3))
    assert "b (user net) has 100 rows of dim 4: 1600 B in fp32, 25.0% of all bytes, number 2 of 2 in size" in text
    assert "a request reads 3 rows of it" in text


def test_it_says_what_another_shard_would_bear() -> None:
    text = explained("a", table("a", rows=300), table("b", rows=200), table("c", rows=90))
    assert "evens out bytes" in text
    assert "the most of a shard would rise: 4800 B to 9472 B" in text


def test_it_says_where_there_is_no_room() -> None:
    text = explained("a", table("a", rows=64), table("b", rows=64), memory_bytes=1600)
    assert "1 of 1 other shards have no room for it" in text


def test_it_says_why_a_table_is_split() -> None:
    text = explained("a", table("a", rows=1000), table("b", rows=10), num_shards=3, memory_bytes=6400)
    assert "split by ranges of keys into 3: it takes 2.50 times the 6400 B of a shard" in text


def test_it_says_which_net_a_shard_is_for() -> None:
    text = explained("a", *(table(name, net=net) for name, net in (("a", "user"), ("b", "item"), ("c", "item"))),
                     num_shards=3, strategy="nsbp")  # fmt: skip
    assert "0 other shards hold tables of this net" in text


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
    assert "Its 1,000 most wanted rows (250.0 KiB) lie on shard" in text
    assert "0.25% of its rows take 95% of its keys: copied" in text
    assert "puts together what works alike for its bytes" in text


def test_it_says_that_one_shard_has_all() -> None:
    assert "The plan (one-shard) has one shard, so all tables are on it." in explained(
        "a", table("a"), strategy="one-shard"
    )
    assert "lie in every ranker, with all others" in explained("a", table("a"), strategy="singular")


def test_a_table_that_is_not_there_is_refused_with_some_that_are() -> None:
    with pytest.raises(PlanError, match="no table 'x' in this plan of 2 tables; some are a, b"):
        explained("x", table("a"), table("b"))


def test_a_strategy_of_another_version_is_not_explained() -> None:
    config = shards(2, memory_bytes=2**20)
    schema, statistics = model(table("a", rows=300), table("b", rows=200))
    plan = make_plan(schema, statistics, config, COSTS).model_copy(update={"strategy": "size-balanced"})
    text = " ".join(explain("a", plan, statistics, config, COSTS))
    assert text.endswith(
        "The plan is by 'size-balanced', a strategy that this version does not have: it cannot tell why."
    )
