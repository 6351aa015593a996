"""`exfm bench simulator`: predictions beside what real servers did on this machine, and how fast they are made.

The cost model is fitted to some plans and loads, and judged by other plans under other loads, measured in the same run.
All servers and the client share this machine's cores.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exfm.artifact.plan import ShardPlan
from exfm.planning.config import ShardingConfig, Strategy
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.planner import make_plan
from exfm_bench.calibration import Calibration, Predicted, calibrate
from exfm_bench.machine import processor, scheduling
from exfm_bench.measurement import Measured, Point, measure
from exfm_bench.scale_test import NUM_REQUESTS, ScaleTest, scale_tests
from exfm_bench.slopes import SCENARIOS, Scenario, measure_slopes
from exfm_bench.workload import GENERATED

TOLERANCE = 0.15
"""Target: the relative error of predicted P50 and P99, at most."""

MOST_S = 30.0
"""Target: seconds to simulate 20,000 requests over 128 shards after a warm-up, at most."""

FIRST_RATE = 50.0
"""Requests a second at which a point's CPU time is first measured, which then sets its rate."""


@dataclass(frozen=True)
class Setting:
    """A plan, and the loads that its servers are put under."""

    name: str
    strategy: Strategy
    num_shards: int
    candidates: tuple[int, ...]
    busy: tuple[float, ...]
    """Part of the machine's cores that a load takes."""
    shard_memory_mib: float = 1024.0

    def plan(self, costs: CostModel) -> ShardPlan:
        """Return the generated model's plan."""
        memory_gib = self.shard_memory_mib / 1024
        config = ShardingConfig(strategy=self.strategy, num_shards=self.num_shards, shard_memory_gib=memory_gib)
        return make_plan(GENERATED.schema(), GENERATED.statistics(candidates=100), config, costs)

    def points(self, costs: CostModel) -> list[Point]:
        """Return the plan under each load."""
        plan = self.plan(costs)
        return [
            Point(self.name, plan, candidates, FIRST_RATE, busy) for candidates in self.candidates for busy in self.busy
        ]


CALIBRATION = (
    Setting("one shard", "one-shard", 1, (20, 200, 1000), (0.15, 0.45)),
    Setting("capacity-balanced, 4 shards", "capacity-balanced", 4, (20, 200, 1000), (0.15, 0.45)),
)
VALIDATION = (
    Setting("nsbp, 2 shards", "nsbp", 2, (50, 400), (0.2, 0.4)),
    Setting("load-balanced, 3 shards", "load-balanced", 3, (50, 400), (0.2, 0.4)),
    Setting("rows split, 5 shards", "capacity-balanced", 5, (50, 400), (0.2, 0.4), shard_memory_mib=24),
)


def bench_simulator(
    console: Console,
    costs: CostModel,
    *,
    num_rounds: int,
    num_requests: int,
    seed: int,
    shown: Sequence[Setting] = CALIBRATION,
    judging: Sequence[Setting] = VALIDATION,
    slope_scenarios: Sequence[Scenario] = SCENARIOS,
    num_simulated: int = NUM_REQUESTS,
) -> CostModel:
    """Measure, calibrate by the settings `shown`, predict those `judging`, and print; some 20 minutes.

    `num_simulated` are the requests of each scale test. Returns the calibrated costs.

    Raises: ServingError if servers do not start.
    """
    cores = len(os.sched_getaffinity(0))
    where = (
        f"{time.strftime('%Y-%m-%d')}, {cores} cores of {processor()}, {scheduling()}, {num_requests} requests a load "
        f"in {num_rounds} rounds, seed {seed}"
    )
    console.print(where, soft_wrap=True)
    points = [[point for one in settings for point in one.points(costs)] for settings in (shown, judging)]
    found = measure(
        [*points[0], *points[1]],
        num_rounds=num_rounds,
        num_requests=num_requests,
        seed=seed,
        say=lambda line: console.print(line, style="dim", soft_wrap=True),
    )
    fitted, judged = found[: len(points[0])], found[len(points[0]) :]
    prior = measure_slopes(seed, scenarios=slope_scenarios).put_into(costs)
    calibration = calibrate(fitted, prior=prior, cores=cores, measured=where)
    for title, measured in (("calibrated on", fitted), ("validated on", judged)):
        predicted = [calibration.predict(one, cores=cores) for one in measured]
        console.print(_comparison(title, measured, predicted, cores=cores))
        console.print(_verdict(measured, predicted), soft_wrap=True)
    console.print(_described(calibration), soft_wrap=True)
    for test in scale_tests(calibration.costs, seed=seed, num_requests=num_simulated):
        console.print(_scale_line(test), soft_wrap=True)
    return calibration.costs


def _comparison(title: str, found: Sequence[Measured], predicted: Sequence[Predicted], *, cores: int) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(title, no_wrap=True)
    for column in ("candi-\ndates", "req/s", "busy", "others'\ncores", "failed"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("P50 ms", "P99 ms", "CPU ms"):
        table.add_column(f"{column}\npred. meas. error", justify="right", no_wrap=True)
    table.add_column("P99 itself\nmay be off", justify="right", no_wrap=True)
    for one, said in zip(found, predicted, strict=True):
        busy = one.point.requests_per_s * (one.cpu_ms + one.client_cpu_ms) * 1e-3 / cores
        table.add_row(
            Text(one.point.name),
            str(one.point.candidates),
            f"{one.point.requests_per_s:.0f}",
            f"{busy:.0%}",
            f"{one.other_cores:.2f}",
            str(one.num_failed),
            *(_pair(*pair) for pair in _pairs(said, one)),
            f"{one.relative_error(0.99):.0%}",
        )
    return table


def _pairs(predicted: Predicted, measured: Measured) -> list[tuple[float, float]]:
    return [
        (predicted.p50_ms, measured.quantile_ms(0.5)),
        (predicted.p99_ms, measured.quantile_ms(0.99)),
        (predicted.cpu_ms, measured.cpu_ms),
    ]


def _pair(predicted: float, measured: float) -> Text:
    error = predicted / measured - 1
    return Text(f"{predicted:5.2f} {measured:5.2f} {error:+4.0%}", style="" if abs(error) <= TOLERANCE else "red")


def _verdict(found: Sequence[Measured], predicted: Sequence[Predicted]) -> str:
    """Return how far predictions were off."""
    lines = []
    errors = np.array([[p / m - 1 for p, m in _pairs(said, one)] for said, one in zip(predicted, found, strict=True)])
    for name, of_one in zip(("P50", "P99", "CPU time"), errors.T, strict=True):
        within = int((np.abs(of_one) <= TOLERANCE).sum())
        lines.append(
            f"{name}: off by {np.abs(of_one).mean():.1%} in the mean, {np.abs(of_one).max():.0%} at worst; "
            f"{within} of {len(found)} within {TOLERANCE:.0%}"
        )
    return "\n".join(lines)


def _described(calibration: Calibration) -> str:
    costs = calibration.costs.to_dict()
    del costs["measured"]
    return f"costs: {costs}; client: {calibration.client}; beside_share: {calibration.beside_share:.3g}"


def _scale_line(test: ScaleTest) -> str:
    predicted, plan = test.predicted, test.plan
    return (
        f"{test.num_requests} requests after {test.num_warmup} over {plan.num_shards} shards "
        f"({test.workload.total_bytes / 1e12:.1f} TB of tables) at {predicted.requests_per_s:,.0f} requests/s: "
        f"simulated in {test.duration_s:.1f} s (target {MOST_S:.0f} s); "
        f"P50 {predicted.p50_ms:.1f} ms, P99 {predicted.p99_ms:.1f} ms, {predicted.cpu_ms:.1f} ms of CPU a request, "
        f"{plan.rankers} rankers {predicted.ranker_utilisation:.0%} busy, {sum(plan.replicas)} shard servers "
        f"{max(predicted.shard_utilisation):.0%} at most"
    )
