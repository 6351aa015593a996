"""Findings of arXiv:2011.02084 on sharded models, checked with exfm's strategies on models like its own.

The paper's servers make a call per net and shard. exfm's make one call. So a net is priced as a call here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from exfm.artifact.plan import ShardPlan
from exfm.planning.config import Strategy
from exfm.planning.cost_model.costs import CallPrices, CostModel
from exfm.planning.cost_model.work import work_by_net
from exfm.planning.planner import make_plan
from exfm.planning.simulation.simulator import Load, Prediction, simulate
from exfm_bench.large_models import Workload, drm1_like, drm3_like

STRATEGIES: tuple[Strategy, ...] = ("one-shard", "capacity-balanced", "load-balanced", "nsbp")

NUM_SHARDS = (2, 4, 8)
"""Numbers of shards of the plans; all strategies but `one-shard` are compared on the largest."""

ROOM = 1.5
"""Memory of all shards over the bytes of all tables: each net by itself does not fill shards as evenly."""

REQUESTS_PER_S = 8.0
"""Load at which one ranker and one server per shard are at most an eighth busy. Above about 20 requests/s,
requests queue at the ranker, so one shard no longer has the highest 99th percentile."""
NUM_REQUESTS = 5_000


@dataclass(frozen=True)
class Simulated:
    """A plan and what its servers will do."""

    workload: Workload
    plan: ShardPlan
    predicted: Prediction


@dataclass(frozen=True)
class Findings:
    """Simulations of a model like DRM1, whose tables are all whole, and of one like DRM3, whose huge one is split."""

    by_strategy: Mapping[Strategy, Simulated]
    """Simulations of the DRM1-like model."""
    whole: tuple[Simulated, ...]
    """Simulations of the DRM1-like model, balanced by load on more and more shards."""
    split: tuple[Simulated, ...]
    """The same of the DRM3-like model. Balanced by load its small tables spread evenly, so chance does not count."""

    @property
    def one_shard_is_slowest(self) -> bool:
        """Return whether one shard's median and 99th percentile of latency are above those of every other strategy."""
        one, *others = (self.by_strategy[strategy].predicted for strategy in STRATEGIES)
        return all(one.p50_ms > other.p50_ms and one.p99_ms > other.p99_ms for other in others)

    @property
    def nsbp_calls_least(self) -> bool:
        """Return whether nsbp makes fewer calls, of less CPU time, than the others on as many shards."""
        _, *others, nsbp = (self.by_strategy[strategy].predicted for strategy in STRATEGIES)
        return all(nsbp.calls < other.calls and nsbp.cpu_ms < other.cpu_ms for other in others)


def findings_of(seed: int, costs: CostModel) -> Findings:
    """Return the simulations of one seed.

    Raises: PlanError if a model has no plan.
    """
    *fewer, most = NUM_SHARDS
    model = drm1_like(seed, num_shards=most)
    by_strategy = {strategy: _simulated(model, strategy, costs) for strategy in STRATEGIES}
    on_fewer = (_simulated(drm1_like(seed, num_shards=n), "load-balanced", costs) for n in fewer)
    return Findings(
        by_strategy=by_strategy,
        whole=(*on_fewer, by_strategy["load-balanced"]),
        split=tuple(_simulated(drm3_like(seed, num_shards=n), "load-balanced", costs) for n in NUM_SHARDS),
    )


def gain_of(more_and_more: Sequence[Simulated]) -> float:
    """Return by which share the median latency falls, at most, from the fewest shards to more."""
    fewest, *more = (one.predicted.p50_ms for one in more_and_more)
    return 1 - min(more) / fewest


def _simulated(workload: Workload, strategy: Strategy, costs: CostModel) -> Simulated:
    memory_gib = workload.shard_memory_gib * (workload.num_shards if strategy == "one-shard" else ROOM)
    config = workload.settings(strategy).model_copy(update={"shard_memory_gib": memory_gib})
    by_net = costs.model_copy(update={end: _by_net(getattr(costs, end)) for end in ("ranker", "shard")})
    plan = make_plan(workload.schema, workload.statistics, config, by_net)
    load = Load(requests_per_s=REQUESTS_PER_S, num_requests=NUM_REQUESTS)
    predicted = simulate(plan, workload.statistics, by_net, load, rankers=1, seed=0)
    calls = sum(float(work.nets.sum()) for work in work_by_net(plan, workload.statistics).values())
    return Simulated(workload, plan, replace(predicted, calls=calls))


def _by_net(prices: CallPrices) -> CallPrices:
    return prices.model_copy(update={"call_us": 0.0, "net_us": prices.call_us + prices.net_us})
