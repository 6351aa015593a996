"""`exfm bench planner`: how fast and how near the best plans are, what `auto` saves, how little a new plan moves, and
whether strategies differ as they did in arXiv:2011.02084.
"""

import time
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from exfm.planning.config import Strategy
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.planner import make_plan
from exfm.planning.replanning.replanner import Replanned, replan
from exfm.planning.sizes import bytes_text, three_digits
from exfm_bench.findings import REQUESTS_PER_S, Findings, findings_of, gain_of
from exfm_bench.large_models import Workload, changed, drm1_like, drm2_like, drm3_like, heavy_tailed
from exfm_bench.placement import Placed, all_placed
from exfm_bench.saving import Saving, saved

MOST_S = 1.0
"""Target: seconds for a plan of 1,000 tables on 128 shards, at most."""

MOST_DISTANCE = 0.01
"""Target: distance of a bottleneck above its bound, at most, on models that are at least 90 % full."""

MIN_FULL = 0.899
"""How full a model is that is 90 % full but for a row."""

REPLANNED: tuple[Strategy, ...] = ("capacity-balanced", "load-balanced", "nsbp", "auto")


def bench_planner(console: Console, costs: CostModel, *, num_seeds: int, requests_per_s: float) -> None:
    """Measure and print; some minutes.

    Raises: PlanError if a made-up model has no plan.
    """
    console.print(f"{time.strftime('%Y-%m-%d')}, one thread; costs: {costs.measured}", soft_wrap=True)
    placed = list(all_placed(num_seeds, costs))
    console.print(_placement_table(placed))
    console.print(_placement_verdict(placed), soft_wrap=True)
    savings = [
        saved(workload, rate, costs)
        for workload in (drm1_like(0), drm2_like(0), drm3_like(0))
        for rate in (requests_per_s, 10 * requests_per_s)
    ]
    console.print(_saving_table(savings))
    console.print(_saving_verdict(savings), soft_wrap=True)
    console.print(_replanning_table([drm1_like(0), heavy_tailed(0, fill=0.9)], costs))
    findings = [findings_of(seed, costs) for seed in range(num_seeds)]
    console.print(_findings_table(findings[0]))
    console.print(_findings_verdict(findings), soft_wrap=True)


def _placement_table(placed: Sequence[Placed]) -> Table:
    table = _table(
        "Plans (placed, checked, laid out): seconds, and the bottleneck above its bound",
        ("model", "tables", "shards", "memory\nfull", "load\nfull", "bytes\ns", "above\nbound", "load\ns",
         "above\nbound", "auto\ns", "torchrec\ns", "load above\nbound", "by its own\nestimate", "exfm\nby that"),
    )  # fmt: skip
    for one in placed:
        by_bytes, by_load = one.timed["capacity-balanced"], one.timed["load-balanced"]
        table.add_row(
            one.workload.name, str(len(one.workload.statistics.tables)), str(one.workload.num_shards),
            f"{one.memory_full:.1%}", f"{one.load_full:.1%}",
            f"{by_bytes.seconds:.3f}", _percent(by_bytes.distance),
            f"{by_load.seconds:.3f}", _percent(by_load.distance),
            f"{one.timed['auto'].seconds:.3f}",
            *([one.torchrec, "", "", ""] if isinstance(one.torchrec, str) else [
                f"{one.torchrec.seconds:.3f}", _percent(one.torchrec_distance), _percent(one.torchrec.own_distance),
                _percent(one.torchrec.exfm_own_distance),
            ]),
        )  # fmt: skip
    return table


def _placement_verdict(placed: Sequence[Placed]) -> str:
    full = [one for one in placed if min(one.memory_full, one.load_full) >= MIN_FULL]
    near = [one for one in full if max(each.distance or 0.0 for each in one.timed.values()) <= MOST_DISTANCE]
    large = [one for one in placed if len(one.workload.statistics.tables) >= 1000]
    slowest_s = max(each.seconds for one in large for each in one.timed.values())
    return (
        f"{len(near)} of {len(full)} models that are at least 90 % full in both are within {MOST_DISTANCE:.0%} of the "
        f"bound; the slowest plan of 1,000 tables took {slowest_s:.3f} s (target: {MOST_S:g} s)\n"
    )


def _saving_table(savings: Sequence[Saving]) -> Table:
    table = _table(
        "`auto`, and the whole model on every server, at as many requests and no more latency",
        ("model", "requests/s", "P99\nms", "whole:\npods", "memory", "cost", "auto:\nshards", "pods", "memory", "cost",
         "above\nbound", "P99\nms", "memory\nsaved", "cheapest\nother", "auto\ns"),
    )  # fmt: skip
    for one in savings:
        table.add_row(
            one.workload.name, f"{one.requests_per_s:,.0f}", three_digits(one.p99_ms),
            f"{one.whole.pods:,}", bytes_text(one.whole.memory_bytes), three_digits(one.whole.cost),
            str(one.auto.placement.num_shards), f"{one.auto.fleet.pods:,}", bytes_text(one.auto.fleet.memory_bytes),
            three_digits(one.auto.fleet.cost), _percent(one.auto_distance), three_digits(one.auto_p99_ms),
            f"{one.whole.memory_bytes / one.auto.fleet.memory_bytes:.1f} x", three_digits(one.cheapest_other),
            f"{one.seconds:.1f}",
        )  # fmt: skip
    return table


def _saving_verdict(savings: Sequence[Saving]) -> str:
    cheapest = [one for one in savings if one.auto.fleet.cost <= one.cheapest_other]
    ratios = [one.whole.memory_bytes / one.auto.fleet.memory_bytes for one in savings]
    return (
        f"`auto` costs no more than the cheapest other strategy that meets the latency in {len(cheapest)} of "
        f"{len(savings)}; it takes {min(ratios):.1f} to {max(ratios):.1f} times less memory than whole models "
        "(arXiv:2406.06955 reports 3.3 times on its own models and servers)\n"
    )


def _replanning_table(workloads: Sequence[Workload], costs: CostModel) -> Table:
    table = _table(
        "A new plan after every 50th table has twice the keys and every 100th is followed by a new one",
        ("model", "strategy", "s", "moves", "a plan from\nnothing moves", "any plan\nmoves", "all\nbytes"),
    )
    for workload in workloads:
        for strategy in REPLANNED:
            seconds, found = _replanned(workload, strategy, costs)
            table.add_row(
                workload.name, strategy, f"{seconds:.3f}", bytes_text(found.moved_bytes),
                bytes_text(found.fresh_bytes), bytes_text(found.least_bytes), bytes_text(workload.total_bytes),
            )  # fmt: skip
    return table


def _replanned(workload: Workload, strategy: Strategy, costs: CostModel) -> tuple[float, Replanned]:
    later = changed(workload)
    config = workload.settings(strategy)
    old = make_plan(workload.schema, workload.statistics, config, costs)
    start = time.perf_counter()
    found = replan(old, later.schema, later.statistics, config, costs)
    return time.perf_counter() - start, found


def _findings_table(findings: Findings) -> Table:
    table = _table(
        f"What arXiv:2011.02084 found, by these strategies, at {REQUESTS_PER_S:g} requests/s",
        ("model", "strategy", "shards", "calls", "CPU\nms", "P50\nms", "P99\nms", "busiest\nserver"),
    )
    for one in (*findings.by_strategy.values(), *findings.whole[:-1], *findings.split):
        predicted = one.predicted
        table.add_row(
            one.workload.name, one.plan.strategy, str(one.plan.num_shards), f"{predicted.calls:g}",
            three_digits(predicted.cpu_ms), three_digits(predicted.p50_ms), three_digits(predicted.p99_ms),
            f"{max(predicted.ranker_utilisation, *predicted.shard_utilisation):.0%}",
        )  # fmt: skip
    return table


def _findings_verdict(findings: Sequence[Findings]) -> str:
    slowest = sum(one.one_shard_is_slowest for one in findings)
    least = sum(one.nsbp_calls_least for one in findings)
    split, whole = [gain_of(one.split) for one in findings], [gain_of(one.whole) for one in findings]
    return (
        f"of {len(findings)} seeds, one shard is the slowest in {slowest}, and nsbp makes the fewest calls, of the "
        f"least CPU time, among those on as many shards in {least}; more shards take at most {max(split):.1%} off the "
        f"median where a huge table is split by rows, {max(whole):.1%} where all are whole\n"
    )


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.2%}"


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column(heads[0], no_wrap=True)
    for head in heads[1:]:
        table.add_column(head, justify="right", no_wrap=True)
    return table
