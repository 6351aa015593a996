"""Whether tables fit, by their sizes alone."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_models import COSTS, model, models, shards, table

from exfm.errors import PlanError
from exfm.planning.config import Strategy
from exfm.planning.proposer.fit import check_fit
from exfm.planning.proposer.strategies import STRATEGIES
from exfm.planning.statistics import Statistics
from exfm.schema import Schema


def problem_of(act: Callable[[], object]) -> str:
    try:
        act()
    except PlanError as error:
        return str(error)
    return ""


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(model=models(), strategy=st.sampled_from([*STRATEGIES]), num_shards=st.integers(1, 6), fill=st.floats(0.3, 1.5))
def test_what_the_check_refuses_has_no_placement_and_what_it_accepts_fails_only_in_the_search(
    model: tuple[Schema, Statistics], strategy: Strategy, num_shards: int, fill: float
) -> None:
    memory_bytes = 64 + int(model[1].size_bytes("fp32") / num_shards / fill)
    config = shards(num_shards, memory_bytes=memory_bytes, strategy=strategy)
    refused = problem_of(lambda: check_fit(strategy, model[1], config))
    failed = problem_of(lambda: STRATEGIES[strategy](model[1], config, COSTS))
    assert failed == refused or (not refused and "no placement was found" in failed)


@pytest.mark.parametrize(
    ("strategy", "num_shards", "problem"),
    [
        ("singular", 2, "singular: all tables take 6400 B, but a shard has 3200 B"),
        ("one-shard", 2, "one-shard: all tables take 6400 B, but a shard has 3200 B"),
        (
            "capacity-balanced",
            1,
            "2 tables take 6400 B, of which 'a' takes 3200 B, but 1 shards of 3200 B have 3200 B together",
        ),
        ("load-balanced", 3, "load-balanced: 3 shards for 2 tables; lower num_shards to at most one shard per table"),
        ("nsbp", 1, "nsbp: 2 nets need at least 1 shard each, but there is 1; raise num_shards"),
    ],
)
def test_tables_that_do_not_fit_a_strategy_are_refused_with_the_numbers(
    strategy: Strategy, num_shards: int, problem: str
) -> None:
    _, statistics = model(table("a", rows=200, net="user"), table("b", rows=200))
    with pytest.raises(PlanError, match=problem):
        check_fit(strategy, statistics, shards(num_shards, memory_bytes=3200))


def test_whole_tables_that_must_share_a_shard_without_room_are_refused_without_a_search() -> None:
    _, statistics = model(*(table(f"t{index}", rows=60) for index in range(3)))
    with pytest.raises(PlanError, match="no placement was found for 3 parts of 3 tables, the largest 960 B, on 2 sha"):
        check_fit("capacity-balanced", statistics, shards(2, memory_bytes=1856))


def test_auto_refuses_what_the_largest_plan_has_no_room_for() -> None:
    _, statistics = model(table("a", rows=2**16))
    with pytest.raises(PlanError, match=r"1 tables take 1,024.0 KiB, which is at least 2,048 shards of 512 B"):
        check_fit("auto", statistics, shards(2, memory_bytes=512))
    check_fit("auto", statistics, shards(2, memory_bytes=1024))
