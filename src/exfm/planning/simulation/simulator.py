"""The latency and utilisation of a plan under a load: requests drawn from statistics go through its servers' queues.

Legend: N requests, S shards.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from pydantic import Field

from exfm.artifact.plan import ShardPlan
from exfm.config import Config
from exfm.errors import DataError, PlanError
from exfm.planning.arrays import Floats
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.cost_model.work import log_normal_sigma, work_by_net
from exfm.planning.simulation.queues import Servers, Timings, replay
from exfm.planning.simulation.timings import draw_timings
from exfm.planning.statistics import Statistics
from exfm.schema import Net


class Load(Config):
    """An open load: requests arrive independently of the answers to earlier ones."""

    requests_per_s: Annotated[float, Field(gt=0, le=1e9)]
    """Mean rate of requests per second, with Poisson arrivals; above 0, up to 1e9."""
    num_requests: Annotated[int, Field(ge=100, le=1_000_000)] = 20_000
    """Requests that the prediction counts, after the warm-up, 100 to 1,000,000. Each takes some 100 B per call."""
    num_warmup: Annotated[int, Field(ge=0, le=1_000_000)] = 2_000
    """Requests before them that fill queues and are not counted, 0 to 1,000,000. 0: counting starts at empty queues."""
    candidates_p99: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """99th percentile of a request's candidates (log-normal), up to 1,000,000. 0: every request has the mean."""


@dataclass(frozen=True)
class Prediction:
    """The predicted latency and utilisation."""

    requests_per_s: float
    p50_ms: float
    """Median latency of a request, from when it is due until its client has the scores."""
    p90_ms: float
    p99_ms: float
    cpu_ms: float
    """CPU time of a mean request, at the ranker and all shards."""
    ranker_cpu_ms: float
    calls: float
    """Calls from a ranker to shards in a mean request."""
    ranker_utilisation: float
    """Share of time that rankers are busy; 1 or more is an overload."""
    shard_utilisation: tuple[float, ...]
    """Share of time that the servers of each shard are busy."""

    @property
    def is_overloaded(self) -> bool:
        """Return whether a queue grows without limit; the quantiles then depend on the length of the simulation."""
        return max(self.ranker_utilisation, *self.shard_utilisation) >= 1


@dataclass(frozen=True)
class Requests:
    """Requests to the rankers."""

    arrivals_s: Floats
    """When each request is due, in ascending order; shape [N]."""
    candidates: Floats
    """Number of candidates of each request; shape [N]."""
    keys: Mapping[Net, Floats] = field(default_factory=dict)
    """Number of keys of each net's features on each shard of the plan, shape [N, S]. Empty: drawn from statistics."""

    def paced(self, requests_per_s: float) -> "Requests":
        """Return these requests at another mean rate, with the same bursts.

        Raises: DataError if all requests arrived at the same time.
        """
        duration_s = self.arrivals_s[-1] - self.arrivals_s[0]
        if duration_s <= 0:
            raise DataError(f"{len(self.arrivals_s)} requests arrived within 0 s, so they have no rate; log more")
        factor = (len(self.arrivals_s) - 1) / duration_s / requests_per_s
        return replace(self, arrivals_s=(self.arrivals_s - self.arrivals_s[0]) * factor)


def draw_requests(load: Load, statistics: Statistics, generator: np.random.Generator) -> Requests:
    """Return a load's requests; the warm-up's come first.

    Raises: PlanError if the 99th percentile of candidates is below the mean.
    """
    num_requests = load.num_warmup + load.num_requests
    mean = statistics.candidates_mean
    if 0 < load.candidates_p99 < mean:
        raise PlanError(
            f"candidates_p99 is {load.candidates_p99:g}, below the mean of {mean:g} candidates per request; set it to "
            f"{mean:g} or more, or to 0 if every request has the mean"
        )
    candidates = np.full(num_requests, mean)
    arrivals_s = np.cumsum(generator.exponential(1 / load.requests_per_s, size=num_requests))
    if load.candidates_p99 > mean:
        sigma = log_normal_sigma(mean, p99=load.candidates_p99)
        drawn = generator.lognormal(np.log(mean) - sigma**2 / 2, sigma, size=num_requests)
        candidates = np.maximum(1.0, np.rint(drawn))
    return Requests(arrivals_s, candidates)


def simulate(
    plan: ShardPlan, statistics: Statistics, costs: CostModel, load: Load, *, rankers: int, seed: int
) -> Prediction:
    """Return the prediction for rankers and a plan's shard servers under a load; it is deterministic for a seed.

    Requests go to rankers at random; a ranker sends its calls to the servers of a shard in turn (round robin). A server
    does one job at a time, in order of arrival.

    Raises: PlanError if there is no ranker, the statistics lack a table of the plan, or as `draw_requests`.
    """
    requests = draw_requests(load, statistics, np.random.default_rng(seed))
    return simulate_requests(requests, plan, statistics, costs, load, rankers=rankers, seed=seed)


def simulate_requests(
    requests: Requests,
    plan: ShardPlan,
    statistics: Statistics,
    costs: CostModel,
    load: Load,
    *,
    rankers: int,
    seed: int,
) -> Prediction:
    """Return the prediction for given requests; `load` has their rate and the warm-up.

    Raises: PlanError, as `simulate`.
    """
    timings, servers = jobs_of(requests, plan, statistics, costs, rankers=rankers, seed=seed)
    replayed = replay(requests.arrivals_s, timings, servers)
    latency_ms = (replayed.answered_s - requests.arrivals_s) * 1e3
    p50_ms, p90_ms, p99_ms = (float(ms) for ms in np.quantile(latency_ms[load.num_warmup :], [0.5, 0.9, 0.99]))
    busy_ms = replayed.busy_s * 1e3 / len(requests.arrivals_s)
    ranker_cpu_ms = float(busy_ms[:rankers].sum())
    shard_cpu_ms = np.add.reduceat(busy_ms, rankers + np.append(0, np.cumsum(servers.replicas[:-1])))
    per_s = load.requests_per_s * 1e-3
    return Prediction(
        requests_per_s=load.requests_per_s,
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        cpu_ms=ranker_cpu_ms + float(shard_cpu_ms.sum()),
        ranker_cpu_ms=ranker_cpu_ms,
        calls=float(len(servers.shard_of_call)),
        ranker_utilisation=per_s * ranker_cpu_ms / rankers,
        shard_utilisation=tuple((per_s * shard_cpu_ms / np.array(plan.replicas)).tolist()),
    )


def jobs_of(
    requests: Requests, plan: ShardPlan, statistics: Statistics, costs: CostModel, *, rankers: int, seed: int
) -> tuple[Timings, Servers]:
    """Return the jobs of given requests, and the servers that do them; `seed` is for keys and service times.

    Raises: PlanError, as `simulate`.
    """
    if rankers < 1:
        raise PlanError(f"{rankers} rankers were given, expected 1 or more")
    generator = np.random.default_rng([seed, 1])
    by_net = work_by_net(plan, statistics)
    shard_of_call = np.flatnonzero(by_net["user"].nets + by_net["item"].nets)
    timings = draw_timings(
        by_net,
        shard_of_call,
        requests.candidates,
        costs,
        candidates_mean=statistics.candidates_mean,
        keys=requests.keys,
        generator=generator,
    )
    servers = Servers(
        num_rankers=rankers,
        ranker_of=generator.integers(rankers, size=len(requests.arrivals_s)),
        shard_of_call=shard_of_call,
        replicas=np.array(plan.replicas, dtype=np.int64),
        first_turn=generator.integers(2**31, size=(rankers, plan.num_shards)),
        cooling_s=costs.cooling_ms * 1e-3,
    )
    return timings, servers
