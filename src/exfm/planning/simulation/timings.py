"""The duration of each job of each request: work drawn from statistics, with the cost model's service times.

Legend: N requests, C calls of a request, S shards.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exfm.planning.cost_model.costs import CallPrices, CostModel
from exfm.planning.cost_model.work import KEY_BYTES, LENGTH_BYTES, ShardWork
from exfm.planning.simulation.queues import Timings
from exfm.schema import Net

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Calls:
    """The calls of a request, and their work in a mean request; arrays have shape [C]."""

    shards: Integers
    """The shard of each call."""
    user: ShardWork
    """The user net's part of the work; 0 in a call that is for the item net only."""
    item: ShardWork
    """The item net's part of the work; 0 in a call that is for the user net only."""


def calls_of(by_net: Mapping[Net, ShardWork], costs: CostModel) -> Calls:
    """Return a call for each shard that has lookups, or one for each net of it, as the cost model says."""
    user, item = by_net["user"], by_net["item"]
    if costs.calls == "shard":
        (shards,) = np.nonzero(user.nets + item.nets)
        return Calls(shards, _take(user, shards), _take(item, shards))
    of_user, of_item = np.nonzero(user.nets)[0], np.nonzero(item.nets)[0]
    return Calls(
        np.concatenate([of_user, of_item]),
        _take(user, of_user, num_zeros_after=len(of_item)),
        _take(item, of_item, num_zeros_before=len(of_user)),
    )


def draw_timings(
    calls: Calls,
    candidates_N: Floats,
    costs: CostModel,
    *,
    candidates_mean: float,
    client_s: float,
    cold_client_s: float,
    keys: Mapping[Net, Floats],
    generator: np.random.Generator,
) -> Timings:
    """Return the durations of each request's jobs and messages.

    `candidates_mean` is the mean number of candidates in the statistics. `keys` has the requests' own keys by net, of
    shape [N, S]. Without them, keys are drawn from gamma distributions: an assumption, because the statistics have only
    mean and variance.
    """
    scale_N1, user, item = (candidates_N / candidates_mean)[:, None], calls.user, calls.item
    if keys:
        keys_NC = keys["user"][:, calls.shards] * (user.nets > 0) + keys["item"][:, calls.shards] * (item.nets > 0)
    else:
        mean_NC, variance_NC = (user.keys + scale_N1 * item.keys, user.keys_variance + scale_N1 * item.keys_variance)
        keys_NC = _gamma(mean_NC, variance_NC, generator)
    bags_NC = user.bags + scale_N1 * item.bags
    request_bytes_NC = keys_NC * KEY_BYTES + bags_NC * LENGTH_BYTES
    answer_bytes_NC = user.answer_bytes + scale_N1 * item.answer_bytes
    row_bytes = (user.read_bytes + item.read_bytes) / np.maximum(user.keys + item.keys, 1e-300)

    def priced_s(prices: CallPrices) -> Floats:
        return prices.cpu_s(
            calls=1.0,
            nets=user.nets + item.nets,
            lookups=user.lookups + item.lookups,
            bags=bags_NC,
            keys=keys_NC,
            message_bytes=request_bytes_NC + answer_bytes_NC,
        )

    own_s = (costs.ranker_request_us + candidates_N * costs.ranker_candidate_us) * 1e-6
    own_s *= _spread(costs.spread, own_s.shape, generator)
    calls_s_NC = priced_s(costs.ranker)
    serve_s_NC = priced_s(costs.shard) + keys_NC * row_bytes * costs.read_byte_ns * 1e-9
    before = costs.ranker_before_share
    latency_s = costs.network_latency_us * 1e-6
    return Timings(
        encode_s=own_s * before,
        score_s=own_s * (1 - before),
        send_call_s=calls_s_NC * before,
        serve_call_s=serve_s_NC * _spread(costs.spread, serve_s_NC.shape, generator),
        receive_answer_s=calls_s_NC * (1 - before),
        call_latency_s=latency_s + request_bytes_NC * costs.network_byte_ns * 1e-9,
        answer_latency_s=latency_s + answer_bytes_NC * costs.network_byte_ns * 1e-9,
        client_latency_s=latency_s,
        client_s=client_s,
        cold_encode_s=costs.ranker_cold_us * before * 1e-6,
        cold_score_s=costs.ranker_cold_us * (1 - before) * 1e-6,
        cold_serve_s=costs.shard_cold_us * 1e-6,
        cold_client_s=cold_client_s,
    )


def _take(work: ShardWork, shards: Integers, *, num_zeros_before: int = 0, num_zeros_after: int = 0) -> ShardWork:
    zeros = (num_zeros_before, num_zeros_after)
    return ShardWork(**{name: np.pad(getattr(work, name)[shards], zeros) for name in ShardWork.__dataclass_fields__})


def _gamma(mean: Floats, variance: Floats, generator: np.random.Generator) -> Floats:
    """Return a gamma variate for each mean and variance; the mean if the variance is 0."""
    varies = (variance > 0) & (mean > 0)
    safe_mean, safe_variance = np.where(varies, mean, 1.0), np.where(varies, variance, 1.0)
    drawn = generator.gamma(safe_mean**2 / safe_variance) * safe_variance / safe_mean
    return np.where(varies, drawn, mean)


def _spread(deviation: float, shape: tuple[int, ...], generator: np.random.Generator) -> Floats:
    """Return log-normal factors of mean 1 and this standard deviation."""
    sigma = np.sqrt(np.log1p(deviation**2))
    return generator.lognormal(-(sigma**2) / 2, sigma, size=shape)
