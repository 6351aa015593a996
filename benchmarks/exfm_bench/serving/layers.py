"""The breakdown of a mean request at each measured server: it names the layers that sharding costs."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from exfm.features.oip import Tensor
from exfm.report.breakdown.layers import RANKER, Group, layer_times, middle_half
from exfm.serving.oip.grpc.client import traced_ranker
from exfm.serving.profiler.breakdown import Traced
from exfm_bench.workload import MODEL_NAME

NUM_WARMUP = 3
"""Requests to each server before those that count."""

NUM_ROUNDS, NUM_REQUESTS = 14, 3
"""Rounds in all starts together (but at least MIN_ROUNDS in each start), and requests to each server in a round, one
after another. Work of a server between two rounds, such as answering pings, counts as CPU time of its next request."""

MIN_ROUNDS = 4
"""Rounds of a start, at least: the middle half of its requests is then several requests."""


@dataclass(frozen=True)
class MeanBreakdown:
    """A mean request at one server and its shards, by kinds of layers."""

    name: str
    """The server's."""
    wall_ms: Mapping[Group, float]
    """Wall time of the server that receives requests, and of its client: the groups add up to the latency."""
    cpu_ms: Mapping[Group, float]
    """CPU time of that server and its shards."""
    shard_ms: Mapping[Group, float]
    """Wall time of the shard that took longest in the mean of a start's requests: they add up to the time until its
    answer was there. Empty without shards."""


def rounds_of_start(num_starts: int) -> int:
    """Return how often each server comes in one of so many starts."""
    return max(MIN_ROUNDS, -(-NUM_ROUNDS // num_starts))


def mean_of_starts(of_starts: Sequence[MeanBreakdown]) -> MeanBreakdown:
    """Return the mean of one server's breakdowns of all starts."""

    def mean(every: Sequence[Mapping[Group, float]]) -> dict[Group, float]:
        return {group: fmean(one[group] for one in every) for group in every[0]}

    return MeanBreakdown(
        of_starts[0].name,
        wall_ms=mean([one.wall_ms for one in of_starts]),
        cpu_ms=mean([one.cpu_ms for one in of_starts]),
        shard_ms=mean([one.shard_ms for one in of_starts]),
    )


def trace_layers(
    servers: Sequence[tuple[str, str]],
    requests: Sequence[Mapping[str, Tensor]],
    *,
    num_starts: int,
    seed: tuple[int, int],
) -> list[MeanBreakdown]:
    """Return where the time of these requests goes at servers of these names and addresses, which get no others.

    They are of one start of so many, whose rounds are spread over all.

    Raises: ServingError if one does not answer.
    """
    generator = np.random.default_rng(seed)
    with ExitStack() as stack:
        rankers = [
            stack.enter_context(traced_ranker(address, requests, model_name=MODEL_NAME)) for _, address in servers
        ]
        # The last of the warm-up has the CPU times before the first that counts.
        traced = [ranker(NUM_WARMUP)[-1:] for ranker in rankers]
        for _ in range(rounds_of_start(num_starts)):
            for place in generator.permutation(len(servers)):
                traced[place] += rankers[place](NUM_REQUESTS)
    return [_mean_breakdown(name, of_server) for (name, _), of_server in zip(servers, traced, strict=True)]


def _mean_breakdown(name: str, traced: Sequence[Traced]) -> MeanBreakdown:
    counted_R = middle_half(traced)
    cpu_ms = dict.fromkeys(Group, 0.0)
    wall_ms: dict[str, dict[Group, float]] = {}
    for one in layer_times(traced):
        cpu_ms[one.group] += float(one.cpu_ms_R[counted_R].mean())
        of_server = wall_ms.setdefault(one.server, dict.fromkeys(Group, 0.0))
        of_server[one.group] += float(one.wall_ms_R[counted_R].mean())
    ranker_ms = wall_ms.pop(RANKER)
    return MeanBreakdown(name, ranker_ms, cpu_ms, max(wall_ms.values(), key=lambda one: sum(one.values()), default={}))
