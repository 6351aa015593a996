"""The planner's benchmark says what it found."""

from io import StringIO

import pytest
from rich.console import Console

from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm.planning.proposer.strategies import STRATEGIES
from exfm_bench import planner as bench
from exfm_bench.large_models import drm3_like, heavy_tailed
from exfm_bench.placement import load_full, placed
from exfm_bench.saving import saved
from exfm_bench.torchrec_plans import plan_by_torchrec


@pytest.fixture(scope="module")
def console() -> Console:
    return Console(file=StringIO(), width=200)


def text_of(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_plans_are_timed_and_measured_against_their_bound(console: Console) -> None:
    found = placed(heavy_tailed(0, num_tables=1000, num_shards=128, fill=0.9), DEFAULT_COSTS)
    assert found.memory_full == pytest.approx(0.9, abs=1e-3)
    console.print(bench._placement_table([found]), bench._placement_verdict([found]))
    assert "heavy-tailed, sigma 2, 90% full, seed 0" in text_of(console)
    assert "1 of 1 models that are at least 90 % full in both are within 1% of the bound" in text_of(console)


def test_shards_are_not_full_of_work_where_tables_are_too_few_to_spread_it() -> None:
    workload = heavy_tailed(0, num_tables=5, num_shards=4, total_gib=100, fill=0.5)
    placement = STRATEGIES["load-balanced"](workload.statistics, workload.settings("load-balanced"), DEFAULT_COSTS)
    assert placement.bound is not None
    assert 0.3 < load_full(placement.bound, workload, DEFAULT_COSTS) < 0.9


@pytest.mark.slow
def test_what_auto_saves_is_told_at_equal_load_and_latency(console: Console) -> None:
    found = saved(drm3_like(0, num_shards=4), 500.0, DEFAULT_COSTS)
    assert found.auto_p99_ms <= found.p99_ms
    assert found.auto.fleet.cost <= min(found.cheapest_other, found.whole.cost)
    console.print(bench._saving_table([found]), bench._saving_verdict([found]))
    assert "costs no more than the cheapest other strategy that meets the latency in 1 of 1" in text_of(console)


def test_what_a_new_plan_moves_is_told(console: Console) -> None:
    console.print(
        bench._replanning_table([heavy_tailed(0, num_tables=200, num_shards=8, total_gib=100)], DEFAULT_COSTS)
    )
    assert "a plan from" in text_of(console)


def test_torchrec_plans_whole_tables_or_its_absence_is_said() -> None:
    found = plan_by_torchrec(heavy_tailed(0, num_tables=60, num_shards=4, fill=0.5, sigma=1.0), DEFAULT_COSTS)
    if isinstance(found, str):
        assert found == "torchrec is not installed"
    else:
        assert found.own_distance >= 0
        assert len(found.shard_cpu_s) == 4
