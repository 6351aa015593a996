"""The time of each layer of ranker and shards, over many traced requests.

Legend: R requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from exfm.errors import ServingError
from exfm.planning.arrays import Floats
from exfm.serving.profiler.breakdown import Breakdown, Layer, Traced

RANKER = "ranker"
RPC_SERVICE, CLIENT, NETWORK = "RPC service", "client's wait", "network"


class Group(StrEnum):
    """Layers of one kind, as the paper groups them; it has no groups for features and for the ranker's wait.

    Source: Lui et al. (arXiv 2011.02084).
    """

    DENSE = "dense operators"
    EMBEDDING = "embedding operator"
    FEATURES = "features and routing"
    SERIALIZATION = "serialization"
    RPC = RPC_SERVICE
    QUEUE = "queue"
    WAIT = "wait for shards"
    NETWORK = "network, and the client's wait"


GROUPS = {
    Layer.QUEUE: Group.QUEUE, Layer.DESERIALIZE: Group.SERIALIZATION, Layer.ENCODE: Group.FEATURES,
    Layer.ROUTE: Group.FEATURES, Layer.SERIALIZE_REQUESTS: Group.SERIALIZATION, Layer.BOTTOM: Group.DENSE,
    Layer.WAIT: Group.WAIT, Layer.DESERIALIZE_ANSWERS: Group.SERIALIZATION, Layer.EMBEDDING: Group.EMBEDDING,
    Layer.DENSE: Group.DENSE, Layer.SERIALIZE: Group.SERIALIZATION,
}  # fmt: skip


@dataclass(frozen=True)
class LayerTimes:
    """The time of one layer of a server, in each request."""

    server: str
    layer: str
    group: Group
    wall_ms_R: Floats
    cpu_ms_R: Floats


def layer_times(traced: Sequence[Traced]) -> list[LayerTimes]:
    """Return the times of ranker and shards in all requests but the first, in the order of a request.

    The wall times of the ranker's layers add up to the client's latency, those of a shard's layers to the time until
    the ranker had the shard's answer. The CPU times of a server add up to the CPU time of its process since the request
    before. So the first request only starts the count, and the server must have no other requests.

    Raises: ServingError if a shard answered only some of the requests.
    """
    counted = traced[1:]
    answered = [set(one.ranker.shards) for one in traced]
    for shard in answered[0].union(*answered) - answered[0].intersection(*answered):
        num_answered = sum(shard in one for one in answered)
        raise ServingError(
            f"shard {shard} answered {num_answered} of {len(traced)} requests, not all; profile again when it is ready"
        )
    client_ms_R = _ms([one.client_ns - one.ranker.total_ns for one in counted])
    found = _of_server(RANKER, [one.ranker for one in traced], CLIENT, client_ms_R)
    for shard in counted[0].ranker.shards:
        of_shard = [one.ranker.shards[shard] for one in traced]
        network_ms_R = _ms([one.network_ns for one in of_shard[1:]])
        found += _of_server(f"shard {shard}", [one.server for one in of_shard], NETWORK, network_ms_R)
    return found


def middle_half(traced: Sequence[Traced]) -> npt.NDArray[np.bool_]:
    """Return which requests but the first are in neither the fastest nor the slowest quarter, by latency.

    Their means add up, which medians do not, and leave out requests in busy moments.
    """
    latency_R = np.array([one.client_ns for one in traced[1:]])
    low, high = np.quantile(latency_R, [0.25, 0.75])
    is_counted_R: npt.NDArray[np.bool_] = (low <= latency_R) & (latency_R <= high)
    return is_counted_R


def _of_server(name: str, breakdowns: Sequence[Breakdown], outside: str, outside_ms_R: Floats) -> list[LayerTimes]:
    counted = breakdowns[1:]
    layers = [layer for layer in Layer if any(layer in one.layers for one in counted)]
    process_ms_R = _ms(np.diff([one.process_cpu_ns for one in breakdowns]))
    found = []
    for layer in layers:
        times = [one.layers.get(layer) for one in counted]
        wall_ms_R = _ms([one.wall_ns if one else 0 for one in times])
        cpu_ms_R = _ms([one.cpu_ns if one else 0 for one in times])
        found.append(LayerTimes(name, layer.value, GROUPS[layer], wall_ms_R, cpu_ms_R))
    service_ms_R = process_ms_R - sum((one.cpu_ms_R for one in found), np.zeros(len(counted)))
    rest_ms_R = _ms([one.rest_ns for one in counted])
    return [
        *found,
        LayerTimes(name, RPC_SERVICE, Group.RPC, rest_ms_R, service_ms_R),
        LayerTimes(name, outside, Group.NETWORK, outside_ms_R, np.zeros(len(counted))),
    ]


def _ms(values_ns: npt.ArrayLike) -> Floats:
    return np.asarray(values_ns, dtype=np.float64) * 1e-6
