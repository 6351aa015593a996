"""The duration of each job of each request: work drawn from statistics, with the cost model's service times.

Legend: N requests, C calls of a request, S shards.
"""

from collections.abc import Mapping

import numpy as np

from exfm.planning.arrays import Floats, Integers
from exfm.planning.cost_model.costs import CallPrices, CostModel
from exfm.planning.cost_model.work import KEY_BYTES, LENGTH_BYTES, ShardWork
from exfm.planning.simulation.queues import Timings
from exfm.schema import Net


def draw_timings(
    by_net: Mapping[Net, ShardWork],
    shard_of_call: Integers,
    candidates_N: Floats,
    costs: CostModel,
    *,
    candidates_mean: float,
    keys: Mapping[Net, Floats],
    generator: np.random.Generator,
) -> Timings:
    """Return the durations of each request's jobs and messages; `shard_of_call` has shape [C].

    `candidates_mean` is the mean number of candidates in the statistics. `keys` has the requests' own keys by net, of
    shape [N, S]. Without them, keys are drawn from gamma distributions: an assumption, because the statistics have only
    mean and variance.
    """
    user, item = by_net["user"].on(shard_of_call), by_net["item"].on(shard_of_call)
    scale_N1 = (candidates_N / candidates_mean)[:, None]
    if keys:
        keys_NC = keys["user"][:, shard_of_call] + keys["item"][:, shard_of_call]
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
        cold_encode_s=costs.ranker_cold_us * before * 1e-6,
        cold_score_s=costs.ranker_cold_us * (1 - before) * 1e-6,
        cold_serve_s=costs.shard_cold_us * 1e-6,
    )


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
