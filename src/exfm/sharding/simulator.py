"""What a plan will do under a load: requests drawn from the statistics, replayed through the queues of its servers.

Legend: N requests, C calls that a request makes, S shards, K rankers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from exfm.artifact.plan import ShardPlan
from exfm.config import Config
from exfm.errors import PlanError
from exfm.schema import Net
from exfm.sharding.costs import KEY_BYTES, LENGTH_BYTES, CallPrices, CostModel, ShardWork, work_by_net
from exfm.sharding.queues import Servers, Timings, replay
from exfm.sharding.statistics import Statistics

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

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


def simulate(
    plan: ShardPlan, statistics: Statistics, costs: CostModel, load: Load, *, rankers: int, seed: int
) -> Prediction:
    """Return what `rankers` rankers and the plan's servers will do under a load; the same seed gives the same.

    Requests go to rankers at random; a ranker gives the servers of a shard their turns. A server does one thing at a
    time, in order of arrival.

    Raises: PlanError if there is no ranker, or the plan has a table that was not counted.
    """
    if rankers < 1:
        raise PlanError(f"{rankers} rankers cannot answer; take 1 or more")
    generator = np.random.default_rng(seed)
    num_requests = load.num_warmup + load.num_requests
    arrivals_s = np.cumsum(generator.exponential(1 / load.requests_per_s, size=num_requests))
    calls = _calls_of(work_by_net(plan, statistics), costs)
    candidates = _draw_candidates(load, statistics, num_requests, generator)
    timings = _draw_timings(calls, candidates, statistics, costs, load, generator)
    servers = Servers(
        num_rankers=rankers,
        ranker_of=generator.integers(rankers, size=num_requests),
        shard_of_call=calls.shards,
        replicas=np.array(plan.replicas, dtype=np.int64),
        first_turn=generator.integers(2**31, size=(rankers, plan.num_shards)),
        shared_cores=load.shared_cores,
    )
    latency_ms = (replay(arrivals_s, timings, servers) - arrivals_s)[load.num_warmup :] * 1e3
    return _prediction(latency_ms, timings, servers, load)


@dataclass(frozen=True)
class _Calls:
    """The calls that a request makes, and the work in them for a mean request; arrays of shape [C]."""

    shards: Integers
    user: ShardWork
    item: ShardWork


def _calls_of(by_net: Mapping[Net, ShardWork], costs: CostModel) -> _Calls:
    """Return a call for each shard with a lookup, or one for each of its nets."""
    user, item = by_net["user"], by_net["item"]
    if costs.calls == "shard":
        (shards,) = np.nonzero(user.nets + item.nets)
        return _Calls(shards, _take(user, shards), _take(item, shards))
    of_user, of_item = np.nonzero(user.nets)[0], np.nonzero(item.nets)[0]
    return _Calls(
        np.concatenate([of_user, of_item]),
        _take(user, of_user, num_zeros_after=len(of_item)),
        _take(item, of_item, num_zeros_before=len(of_user)),
    )


def _take(work: ShardWork, shards: Integers, *, num_zeros_before: int = 0, num_zeros_after: int = 0) -> ShardWork:
    zeros = (num_zeros_before, num_zeros_after)
    return ShardWork(**{name: np.pad(getattr(work, name)[shards], zeros) for name in ShardWork.__dataclass_fields__})


def _draw_candidates(load: Load, statistics: Statistics, num_requests: int, generator: np.random.Generator) -> Floats:
    mean = load.candidates_mean or statistics.candidates_mean
    if load.candidates_p99 <= mean:
        return np.full(num_requests, mean)
    sigma = _Z_P99 - np.sqrt(max(0.0, _Z_P99**2 - 2 * np.log(load.candidates_p99 / mean)))
    return np.maximum(1.0, np.rint(generator.lognormal(np.log(mean) - sigma**2 / 2, sigma, size=num_requests)))


def _draw_timings(
    calls: _Calls,
    candidates: Floats,
    statistics: Statistics,
    costs: CostModel,
    load: Load,
    generator: np.random.Generator,
) -> Timings:
    """Return the times of each request's jobs and messages.

    Users' keys vary from request to request, and items' the less the more candidates there are; both are gamma.
    """
    scale_N1 = (candidates / statistics.candidates_mean)[:, None]
    user, item = calls.user, calls.item
    keys_NC = _gamma(user.keys + scale_N1 * item.keys, user.keys_variance + scale_N1 * item.keys_variance, generator)
    bags_NC = user.bags + scale_N1 * item.bags
    answer_bytes_NC = user.answer_bytes + scale_N1 * item.answer_bytes
    request_bytes_NC = keys_NC * KEY_BYTES + bags_NC * LENGTH_BYTES
    row_bytes = (user.read_bytes + item.read_bytes) / np.maximum(user.keys + item.keys, 1e-300)
    fixed = (user.nets + item.nets, user.lookups + item.lookups)
    amounts = (*fixed, bags_NC, keys_NC, request_bytes_NC + answer_bytes_NC)
    own_s = (costs.ranker_request_us + candidates * costs.ranker_candidate_us) * 1e-6
    own_s *= _spread(costs.spread, own_s.shape, generator)
    calls_s_NC = _priced_s(costs.ranker, *amounts)
    serve_s_NC = _priced_s(costs.shard, *amounts) + keys_NC * row_bytes * costs.read_byte_ns * 1e-9
    before = costs.ranker_before_share
    return Timings(
        encode_s=own_s * before,
        score_s=own_s * (1 - before),
        ask_s=calls_s_NC * before,
        serve_s=serve_s_NC * _spread(costs.spread, serve_s_NC.shape, generator),
        take_s=calls_s_NC * (1 - before),
        out_s=costs.network_latency_us * 1e-6 + request_bytes_NC * costs.network_byte_ns * 1e-9,
        back_s=costs.network_latency_us * 1e-6 + answer_bytes_NC * costs.network_byte_ns * 1e-9,
        client_way_s=costs.network_latency_us * 1e-6,
        client_s=load.client_us * 1e-6,
    )


def _priced_s(
    prices: CallPrices, nets: Floats, lookups: Floats, bags_NC: Floats, keys_NC: Floats, message_bytes_NC: Floats
) -> Floats:
    per_call_us = prices.call_us + nets * prices.net_us + lookups * prices.lookup_us
    in_call_ns = bags_NC * prices.bag_ns + keys_NC * prices.key_ns + message_bytes_NC * prices.byte_ns
    return per_call_us * 1e-6 + in_call_ns * 1e-9


def _gamma(mean: Floats, variance: Floats, generator: np.random.Generator) -> Floats:
    """Return a gamma variate for each mean and variance; where there is no variance, the mean."""
    varies = (variance > 0) & (mean > 0)
    safe_mean, safe_variance = np.where(varies, mean, 1.0), np.where(varies, variance, 1.0)
    drawn = generator.gamma(safe_mean**2 / safe_variance) * safe_variance / safe_mean
    return np.where(varies, drawn, mean)


def _spread(deviation: float, shape: tuple[int, ...], generator: np.random.Generator) -> Floats:
    """Return log-normal factors of mean 1 and this standard deviation."""
    sigma = np.sqrt(np.log1p(deviation**2))
    return generator.lognormal(-(sigma**2) / 2, sigma, size=shape)


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
