"""Where a request's time goes at each server that is measured, so that what sharding costs has a name."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from exfm.bench.tracing.spending import RANKER, Group, middle_half, spendings
from exfm.bench.workload import MODEL_NAME
from exfm.features.oip import Tensor
from exfm.serving.tracing.breakdown import Traced

NUM_WARMUP = 3
"""Requests to each server before those that count."""

NUM_ROUNDS, NUM_REQUESTS = 14, 3
"""Times that each server comes, in an order drawn anew, and requests to it each time, one after another. The slowest
and the fastest quarter of them all have no part in the means. What a server does between two rounds, such as answering
pings, is CPU time of its next request."""


@dataclass(frozen=True)
class Layered:
    """A mean request at one server and its shards, by kinds of layers."""

    name: str
    """The server's."""
    wall_ms: Mapping[Group, float]
    """Of the server that is asked, and of its client: they add up to the latency."""
    cpu_ms: Mapping[Group, float]
    """Of that server and its shards."""
    shard_ms: Mapping[Group, float]
    """Wall time of the shard that took longest: they add up to the time until its answer was there. Empty if none was
    asked."""


def trace_layers(
    servers: Sequence[tuple[str, str]], requests: Sequence[Mapping[str, Tensor]], *, seed: int
) -> tuple[Layered, ...]:
    """Return where the time of these requests goes at servers of these names and addresses, which nobody else asks.

    Raises: ServingError if one does not answer.
    """
    # Here, since a process can hold kserve's messages or tritonclient's, and tests of servers hold the latter.
    from exfm.serving.tracing.asking import TracedRanker

    generator = np.random.default_rng(seed)
    with ExitStack() as stack:
        rankers = [
            stack.enter_context(TracedRanker(address, requests, model_name=MODEL_NAME)) for _, address in servers
        ]
        # The last of the warm-up tells CPU times before the first that counts.
        traced = [ranker.ask(NUM_WARMUP)[-1:] for ranker in rankers]
        for _ in range(NUM_ROUNDS):
            for place in generator.permutation(len(servers)):
                traced[place] += rankers[place].ask(NUM_REQUESTS)
    return tuple(_layered(name, of_server) for (name, _), of_server in zip(servers, traced, strict=True))


def _layered(name: str, traced: Sequence[Traced]) -> Layered:
    counted_R = middle_half(traced)
    cpu_ms = dict.fromkeys(Group, 0.0)
    wall_ms: dict[str, dict[Group, float]] = {}
    for one in spendings(traced):
        cpu_ms[one.group] += float(one.cpu_ms_R[counted_R].mean())
        of_server = wall_ms.setdefault(one.server, dict.fromkeys(Group, 0.0))
        of_server[one.group] += float(one.wall_ms_R[counted_R].mean())
    ranker_ms = wall_ms.pop(RANKER)
    return Layered(name, ranker_ms, cpu_ms, max(wall_ms.values(), key=lambda one: sum(one.values()), default={}))
