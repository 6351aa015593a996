"""Where a request's time goes at each server that is measured, so that what sharding costs has a name."""

from collections.abc import Mapping
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


def trace_layers(name: str, address: str, tensors: Mapping[str, Tensor]) -> Layered:
    """Return where the time of a request goes at the server of an address, which nobody else asks meanwhile.

    Raises: ServingError if it does not answer.
    """
    # Here, since a process can hold kserve's messages or tritonclient's, and tests of servers hold the latter.
    from exfm.serving.tracing.asking import ask_traced

    every = ask_traced(address, tensors, model_name=MODEL_NAME, num_requests=NUM_WARMUP + NUM_TRACED)
    traced = every[NUM_WARMUP - 1 :]  # one more, which tells CPU times before the first that counts
    counted_R = middle_half(traced)
    wall_ms, cpu_ms = dict.fromkeys(Group, 0.0), dict.fromkeys(Group, 0.0)
    for one in spendings(traced):
        cpu_ms[one.group] += float(one.cpu_ms_R[counted_R].mean())
        if one.server == RANKER:
            wall_ms[one.group] += float(one.wall_ms_R[counted_R].mean())
    return Layered(name, wall_ms, cpu_ms)
