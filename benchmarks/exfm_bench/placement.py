"""Made-up models placed by exfm's planner and by TorchRec's."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from exfm.planning.config import Demand, Strategy
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.enumerator import Parts, fewest_pieces
from exfm.planning.partitioner.bounds import distance
from exfm.planning.planner import make_plan
from exfm.planning.proposer.strategies import STRATEGIES
from exfm_bench.large_models import Workload, drm1_like, drm2_like, drm3_like, heavy_tailed
from exfm_bench.torchrec_plans import TorchRecPlan, plan_by_torchrec

REPEATS = 3
"""Times that each plan is made; the median time counts."""

FILLS = (0.90, 0.92, 0.95)
SIGMAS = (1.5, 2.0)
AUTO_REQUESTS_PER_S = 10_000.0
"""Load of the timed plan of `auto`, because it has replicas and copies of hot rows only under a load."""

TIMED: tuple[Strategy, ...] = ("capacity-balanced", "load-balanced", "auto")


@dataclass(frozen=True)
class Timed:
    """A plan by one strategy."""

    seconds: float
    """Median of REPEATS plans."""
    distance: float | None
    """Distance of the bottleneck above its bound; None for `auto`, which balances nothing."""


@dataclass(frozen=True)
class Placed:
    """One model, placed by each strategy and by TorchRec."""

    workload: Workload
    timed: Mapping[Strategy, Timed]
    memory_full: float
    """Bytes of the model, as a share of all shards' memory."""
    load_full: float
    """Mean work of a shard over a lower bound of the busiest shard's work, with tables in as few parts as fit. It is 1
    unless some parts are too heavy, or too few, to balance."""
    torchrec: TorchRecPlan | str
    torchrec_distance: float | None
    """Distance of the busiest shard in TorchRec's plan above exfm's bound, by exfm's cost model."""


def all_placed(num_seeds: int, costs: CostModel) -> Iterator[Placed]:
    """Yield models like DRM1 to DRM3, and 1,000 heavy-tailed tables on 128 shards, for each seed from 0 on."""
    for seed in range(num_seeds):
        yield placed(drm1_like(seed), costs)
        yield placed(drm2_like(seed), costs)
        yield placed(drm3_like(seed), costs)
        for fill in FILLS:
            for sigma in SIGMAS:
                yield placed(heavy_tailed(seed, fill=fill, sigma=sigma), costs)


def placed(workload: Workload, costs: CostModel) -> Placed:
    """Return a model placed by each strategy and by TorchRec.

    Raises: PlanError if one of exfm's strategies has no plan.
    """
    by_load = STRATEGIES["load-balanced"](workload.statistics, workload.settings("load-balanced"), costs)
    bound, torchrec = by_load.bound, plan_by_torchrec(workload, costs)
    assert bound is not None, "a strategy that balances has one"
    return Placed(
        workload=workload,
        timed={strategy: _timed(workload, strategy, costs) for strategy in TIMED},
        memory_full=workload.total_bytes / (workload.num_shards * workload.settings("auto").capacity_bytes),
        load_full=load_full(bound, workload, costs),
        torchrec=torchrec,
        torchrec_distance=None if isinstance(torchrec, str) else distance(float(torchrec.shard_cpu_s.max()), bound),
    )  # fmt: skip


def load_full(bound: float, workload: Workload, costs: CostModel) -> float:
    """Return `Placed.load_full`, given the bound on the busiest shard."""
    config = workload.settings("load-balanced")
    pieces = fewest_pieces(workload.statistics, config)
    parts = Parts.divide(workload.statistics, costs, encoding=config.encoding, pieces=pieces, hot_rows=0)
    return float(parts.cpu_s.sum()) / workload.num_shards / bound


def _timed(workload: Workload, strategy: Strategy, costs: CostModel) -> Timed:
    config, seconds = workload.settings(strategy), []
    if strategy == "auto":
        config = config.model_copy(update={"demand": Demand(requests_per_s=AUTO_REQUESTS_PER_S)})
    for _ in range(REPEATS):
        start = time.perf_counter()
        make_plan(workload.schema, workload.statistics, config, costs)
        seconds.append(time.perf_counter() - start)
    place = STRATEGIES.get(strategy)
    return Timed(median(seconds), place(workload.statistics, config, costs).distance if place else None)
