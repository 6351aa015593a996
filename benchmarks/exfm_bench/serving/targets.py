"""Targets of sharded serving, as ratios to unsharded serving, and whether they are met."""

from collections.abc import Sequence
from dataclasses import dataclass

from exfm_bench.ratios import Interval, Verdict, judge
from exfm_bench.serving.blocks import Series, Statistic
from exfm_bench.serving.config import Variant
from exfm_bench.serving.measuring import Measured


@dataclass(frozen=True)
class Target:
    """A ratio to the unsharded server, at most."""

    candidates: tuple[int, ...]
    """Candidates of the requests that the target is for."""
    statistic: Statistic
    most: float


TARGETS = (
    Target((512, 2048), "p50_ms", 1.02),
    Target((512, 2048), "p99_ms", 1.01),
    Target((512,), "cpu_ms", 1.05),
)
"""P50 and P99 within what Lui et al. (arXiv:2011.02084) report of their best configuration."""

MIN_BLOCKS, MIN_STARTS = 25, 5
"""Blocks and starts that resolve a target, at least: in few starts, two servers of one kind may be alike by luck."""

MIN_REQUESTS_P99 = 100
"""Requests of a block that resolve a P99, at least: of fewer, P99 is nearly the slowest request."""


@dataclass(frozen=True)
class Judged:
    """A target, and what was found of it."""

    target: Target
    measured: Measured
    variant: Variant
    ratio: Interval
    of_same: Interval
    verdict: Verdict


def judged(every: Sequence[Measured]) -> list[Judged]:
    """Return the verdict on each target, for each load and variant that it is for."""
    found = []
    for measured in every:
        for variant, series in measured.sharded:
            for target in TARGETS:
                if measured.scenario.candidates in target.candidates:
                    ratio = series.ratio(target.statistic, measured.unsharded)
                    of_same = measured.same.ratio(target.statistic, measured.unsharded)
                    verdict = _verdict(target, series, measured, ratio, of_same)
                    found.append(Judged(target, measured, variant, ratio, of_same, verdict))
    return found


def _verdict(target: Target, series: Series, measured: Measured, ratio: Interval, of_same: Interval) -> Verdict:
    if series.num_failed:  # a refusal takes no time
        return "not met"
    if measured.unsharded.num_failed or measured.same.num_failed:
        return "not resolved"
    if len(series.blocks) < MIN_BLOCKS or len(series.starts) < MIN_STARTS:
        return "not resolved"
    if target.statistic == "p99_ms" and min(block.num_requests for block in series.blocks) < MIN_REQUESTS_P99:
        return "not resolved"
    return judge(ratio, target.most, of_same=of_same)
