"""What a plan will do under a load: requests drawn from the statistics, replayed through the queues of its servers.

Legend: N requests, S shards.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from exfm.artifact.plan import ShardPlan
from exfm.config import Config
from exfm.errors import DataError, PlanError
from exfm.planning.pricing.costs import CostModel, log_normal_sigma, work_by_net
from exfm.planning.simulation.queues import Servers, replay
from exfm.planning.simulation.timings import calls_of, draw_timings
from exfm.planning.statistics import Statistics
from exfm.schema import Net

Floats = npt.NDArray[np.float64]


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
    """The client's CPU time for a request, in microseconds; it counts on shared cores only, and 0 leaves it out."""
    client_cold_us: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """What it takes more when its last request is long ago, in microseconds, as in CostModel."""


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
    """What comes to the rankers."""

    arrivals_s: Floats
    """When each request is due; rising; shape [N]."""
    candidates: Floats
    """Shape [N]."""
    keys: Mapping[Net, Floats] = field(default_factory=dict)
    """Of each net's features, by the plan's shards; shape [N, S]. Empty: they are drawn around the statistics."""

    def paced(self, requests_per_s: float) -> "Requests":
        """Return these requests at another mean rate; what came in bursts still does.

        Raises: DataError if all came at once.
        """
        duration_s = self.arrivals_s[-1] - self.arrivals_s[0]
        if duration_s <= 0:
            raise DataError(f"{len(self.arrivals_s)} requests came within 0 s, so they have no rate; log more")
        factor = (len(self.arrivals_s) - 1) / duration_s / requests_per_s
        return replace(self, arrivals_s=(self.arrivals_s - self.arrivals_s[0]) * factor)


def draw_requests(load: Load, statistics: Statistics, generator: np.random.Generator) -> Requests:
    """Return a load's requests, those of the warm-up first.

    Raises: PlanError if the 99th percentile of their candidates is below the mean.
    """
    num_requests = load.num_warmup + load.num_requests
    mean = load.candidates_mean or statistics.candidates_mean
    if 0 < load.candidates_p99 < mean:
        raise PlanError(
            f"candidates_p99 is {load.candidates_p99:g}, below the {mean:g} candidates of a mean request; give "
            f"{mean:g} or more, or 0 for requests that all have the mean"
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
    """Return what `rankers` rankers and the plan's servers will do under a load; the same seed gives the same.

    Requests go to rankers at random; a ranker gives the servers of a shard their turns. A server does one thing at a
    time, in order of arrival.

    Raises: PlanError if there is no ranker, the plan has a table that was not counted, or as `draw_requests`.
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
    """Return what `simulate` does, for these requests; `load` tells their rate, the warm-up, the cores and the client.

    Raises: PlanError, as `simulate`.
    """
    replayed = replay_requests(
        requests,
        plan,
        statistics,
        costs,
        rankers=rankers,
        shared_cores=load.shared_cores,
        client_us=load.client_us,
        client_cold_us=load.client_cold_us,
        seed=seed,
    )
    return _prediction(replayed, plan, load, rankers=rankers)


@dataclass(frozen=True)
class ReplayedRequests:
    """What became of requests, and what they took."""

    latency_ms: Floats
    """From when each was due to when its client had the scores; shape [N]."""
    ranker_cpu_ms: float
    shard_cpu_ms: Floats
    """Of a mean request; shape [S]."""
    client_cpu_ms: float
    num_calls: int
    """Of each request."""


def replay_requests(
    requests: Requests,
    plan: ShardPlan,
    statistics: Statistics,
    costs: CostModel,
    *,
    rankers: int,
    shared_cores: int,
    client_us: float,
    client_cold_us: float,
    seed: int,
) -> ReplayedRequests:
    """Return what `simulate` looks at, for requests that are given: `seed` is that of their keys and service times.

    `shared_cores`, `client_us` and `client_cold_us` are as in Load.

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
        client_s=client_us * 1e-6,
        cold_client_s=client_cold_us * 1e-6,
        keys=requests.keys,
        generator=generator,
    )
    servers = Servers(
        num_rankers=rankers,
        ranker_of=generator.integers(rankers, size=len(requests.arrivals_s)),
        shard_of_call=calls.shards,
        replicas=np.array(plan.replicas, dtype=np.int64),
        first_turn=generator.integers(2**31, size=(rankers, plan.num_shards)),
        shared_cores=shared_cores,
        cooling_s=costs.cooling_ms * 1e-3,
        beside_share=costs.beside_share,
    )
    replayed = replay(requests.arrivals_s, timings, servers)
    busy_ms = replayed.busy_s * 1e3 / len(requests.arrivals_s)
    first_server = rankers + np.append(0, np.cumsum(plan.replicas))
    return ReplayedRequests(
        latency_ms=(replayed.answered_s - requests.arrivals_s) * 1e3,
        ranker_cpu_ms=float(busy_ms[:rankers].sum()),
        shard_cpu_ms=np.add.reduceat(busy_ms[:-1], first_server[:-1]),
        client_cpu_ms=float(busy_ms[-1]),
        num_calls=len(calls.shards),
    )


def _prediction(replayed: ReplayedRequests, plan: ShardPlan, load: Load, *, rankers: int) -> Prediction:
    counted_ms = replayed.latency_ms[load.num_warmup :]
    p50_ms, p90_ms, p99_ms = (float(quantile) for quantile in np.quantile(counted_ms, [0.5, 0.9, 0.99]))
    servers_ms = replayed.ranker_cpu_ms + float(replayed.shard_cpu_ms.sum())
    per_s = load.requests_per_s * 1e-3
    return Prediction(
        requests_per_s=load.requests_per_s,
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        cpu_ms=servers_ms,
        ranker_cpu_ms=replayed.ranker_cpu_ms,
        calls=float(replayed.num_calls),
        ranker_utilisation=per_s * replayed.ranker_cpu_ms / rankers,
        shard_utilisation=tuple((per_s * replayed.shard_cpu_ms / np.array(plan.replicas)).tolist()),
        shared_utilisation=(
            per_s * (servers_ms + replayed.client_cpu_ms) / load.shared_cores if load.shared_cores else 0.0
        ),
    )
