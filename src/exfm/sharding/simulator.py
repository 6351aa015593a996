"""What a plan will do under a load: requests drawn from the statistics, replayed through the queues of its servers.

Legend: N requests.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from exfm.artifact.plan import ShardPlan
from exfm.config import Config
from exfm.errors import PlanError
from exfm.sharding.costs import CostModel, work_by_net
from exfm.sharding.queues import Servers, Timings, replay
from exfm.sharding.statistics import Statistics
from exfm.sharding.timings import calls_of, draw_timings

Floats = npt.NDArray[np.float64]

_Z_P99 = 2.326
"""The standard normal's 99th percentile."""


class Load(Config):
    """Requests that come by themselves, whether the ones before were answered or not."""

    requests_per_s: Annotated[float, Field(gt=0, le=1e9)]
    """Mean rate, of users who know nothing of each other (Poisson arrivals); more than 0."""
    num_requests: Annotated[int, Field(ge=100, le=1_000_000)] = 20_000
    """That the prediction is made of, after the warm-up; 100 to 1,000,000. Each takes some 100 B of memory a call."""
    num_warmup: Annotated[int, Field(ge=0, le=1_000_000)] = 2_000
    """Before them, while queues fill; 0 to 1,000,000. 0 counts from empty queues on."""
    candidates_mean: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Candidates of a mean request, up to 1,000,000; 0 takes the statistics'."""
    candidates_p99: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """99th percentile of a request's candidates (log-normal); 0 gives every request the mean."""
    shared_cores: Annotated[int, Field(ge=0, le=1024)] = 0
    """Cores that all servers and the client share, up to 1024; 0 gives each server a core of its own."""
    client_us: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """The client's CPU time for a request, in microseconds; it counts on shared cores only."""


@dataclass(frozen=True)
class Prediction:
    """What clients and servers will see."""

    requests_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    """Of the time from when a request is due to when its client has the scores."""
    cpu_ms: float
    """CPU time of a mean request, at the ranker and all shards."""
    ranker_cpu_ms: float
    """The ranker's part of it."""
    calls: float
    """From a ranker to shards, for a mean request."""
    ranker_utilisation: float
    """Busy part of the rankers' time; 1 and more is too much."""
    shard_utilisation: tuple[float, ...]
    """Busy part of each shard's servers' time."""
    shared_utilisation: float
    """Busy part of the shared cores' time, the client's too; 0 where each server has a core of its own."""

    @property
    def is_overloaded(self) -> bool:
        """Return whether a queue grows for ever, so that the quantiles only tell how long the simulation was."""
        return max(self.ranker_utilisation, self.shared_utilisation, *self.shard_utilisation) >= 1


@dataclass(frozen=True)
class Requests:
    """What comes to the rankers; each of shape [N]."""

    arrivals_s: Floats
    """When each request is due; rising."""
    candidates: Floats


def draw_requests(load: Load, statistics: Statistics, generator: np.random.Generator) -> Requests:
    """Return a load's requests, those of the warm-up first."""
    num_requests = load.num_warmup + load.num_requests
    mean = load.candidates_mean or statistics.candidates_mean
    candidates = np.full(num_requests, mean)
    arrivals_s = np.cumsum(generator.exponential(1 / load.requests_per_s, size=num_requests))
    if load.candidates_p99 > mean:
        sigma = _Z_P99 - np.sqrt(max(0.0, _Z_P99**2 - 2 * np.log(load.candidates_p99 / mean)))
        drawn = generator.lognormal(np.log(mean) - sigma**2 / 2, sigma, size=num_requests)
        candidates = np.maximum(1.0, np.rint(drawn))
    return Requests(arrivals_s, candidates)


def simulate(
    plan: ShardPlan, statistics: Statistics, costs: CostModel, load: Load, *, rankers: int, seed: int
) -> Prediction:
    """Return what `rankers` rankers and the plan's servers will do under a load; the same seed gives the same.

    Requests go to rankers at random; a ranker gives the servers of a shard their turns. A server does one thing at a
    time, in order of arrival.

    Raises: PlanError if there is no ranker, or the plan has a table that was not counted.
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
    """Return what `simulate` does, for these requests; of `load`, only the rate, the warm-up and the cores count.

    Raises: PlanError, as `simulate`.
    """
    if rankers < 1:
        raise PlanError(f"{rankers} rankers cannot answer; take 1 or more")
    generator = np.random.default_rng([seed, 1])
    calls = calls_of(work_by_net(plan, statistics), costs)
    timings = draw_timings(
        calls,
        requests.candidates,
        costs,
        candidates_mean=statistics.candidates_mean,
        client_s=load.client_us * 1e-6,
        generator=generator,
    )
    servers = Servers(
        num_rankers=rankers,
        ranker_of=generator.integers(rankers, size=len(requests.arrivals_s)),
        shard_of_call=calls.shards,
        replicas=np.array(plan.replicas, dtype=np.int64),
        first_turn=generator.integers(2**31, size=(rankers, plan.num_shards)),
        shared_cores=load.shared_cores,
    )
    answered_s = replay(requests.arrivals_s, timings, servers)
    latency_ms = (answered_s - requests.arrivals_s)[load.num_warmup :] * 1e3
    return _prediction(latency_ms, timings, servers, load)


def _prediction(latency_ms: Floats, timings: Timings, servers: Servers, load: Load) -> Prediction:
    ranker_s = float(np.mean(timings.encode_s + timings.score_s + (timings.ask_s + timings.take_s).sum(axis=1)))
    num_shards = len(servers.replicas)
    by_shard_s = np.bincount(servers.shard_of_call, weights=timings.serve_s.mean(axis=0), minlength=num_shards)
    total_s = ranker_s + float(by_shard_s.sum())
    rate = load.requests_per_s
    p50_ms, p90_ms, p99_ms = (float(quantile) for quantile in np.quantile(latency_ms, [0.5, 0.9, 0.99]))
    return Prediction(
        requests_per_s=rate,
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        cpu_ms=total_s * 1e3,
        ranker_cpu_ms=ranker_s * 1e3,
        calls=float(len(servers.shard_of_call)),
        ranker_utilisation=rate * ranker_s / servers.num_rankers,
        shard_utilisation=tuple((rate * by_shard_s / servers.replicas).tolist()),
        shared_utilisation=rate * (total_s + timings.client_s) / load.shared_cores if load.shared_cores else 0.0,
    )
