"""What arXiv:2011.02084 found of models like these holds of exfm's strategies, whatever the seed."""

from io import StringIO

import pytest
from rich.console import Console

from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm_bench import planner as bench
from exfm_bench.findings import Findings, findings_of, gain_of

pytestmark = pytest.mark.slow

SEEDS = range(2)


@pytest.fixture(scope="module", params=SEEDS)
def findings(request: pytest.FixtureRequest) -> Findings:
    return findings_of(request.param, DEFAULT_COSTS)


def test_no_server_is_near_saturation(findings: Findings) -> None:
    for one in (*findings.by_strategy.values(), *findings.whole, *findings.split):
        assert max(one.predicted.ranker_utilisation, *one.predicted.shard_utilisation) < 0.15


def test_one_shard_is_slower_than_every_strategy_that_shards(findings: Findings) -> None:
    assert findings.one_shard_is_slowest


def test_shards_of_one_net_take_the_fewest_calls_and_the_least_cpu_time(findings: Findings) -> None:
    assert findings.nsbp_calls_least
    assert findings.by_strategy["nsbp"].predicted.calls == 8


def test_more_shards_hardly_help_a_table_that_is_split_by_rows(findings: Findings) -> None:
    for one in findings.split:
        largest = max(one.workload.statistics.tables, key=lambda table: table.size_bytes("fp32"))
        assert len(one.plan.by_table()[largest.name]) > 1
    assert all(len(one.plan.slices) == len(one.workload.statistics.tables) for one in findings.whole)
    assert gain_of(findings.split) < 0.05 < 0.1 < gain_of(findings.whole)


def test_what_was_found_is_told(findings: Findings) -> None:
    console = Console(file=StringIO(), width=200)
    console.print(bench._findings_table(findings), bench._findings_verdict([findings]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "DRM1-like" in text
    assert "of 1 seeds, one shard is the slowest in 1" in text
