"""Where a request's time goes at each server that is measured, so that what sharding costs has a name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exfm.bench.tracing.spending import RANKER, Group, middle_half, spendings
from exfm.bench.workload import MODEL_NAME
from exfm.features.oip import Tensor

NUM_WARMUP, NUM_TRACED = 3, 40
"""Requests to each server, one at a time: those before, and those that count, of which the slowest and the fastest
quarter have no part in the means."""


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


def trace_layers(name: str, address: str, requests: Sequence[Mapping[str, Tensor]]) -> Layered:
    """Return where the time of these requests goes at the server of an address, which nobody else asks meanwhile.

    Raises: ServingError if it does not answer.
    """
    # Here, since a process can hold kserve's messages or tritonclient's, and tests of servers hold the latter.
    from exfm.serving.tracing.asking import ask_traced

    every = ask_traced(address, requests, model_name=MODEL_NAME, num_requests=NUM_WARMUP + NUM_TRACED)
    traced = every[NUM_WARMUP - 1 :]  # one more, which tells CPU times before the first that counts
    counted_R = middle_half(traced)
    cpu_ms = dict.fromkeys(Group, 0.0)
    wall_ms: dict[str, dict[Group, float]] = {}
    for one in spendings(traced):
        cpu_ms[one.group] += float(one.cpu_ms_R[counted_R].mean())
        of_server = wall_ms.setdefault(one.server, dict.fromkeys(Group, 0.0))
        of_server[one.group] += float(one.wall_ms_R[counted_R].mean())
    ranker_ms = wall_ms.pop(RANKER)
    return Layered(name, ranker_ms, cpu_ms, max(wall_ms.values(), key=lambda one: sum(one.values()), default={}))
