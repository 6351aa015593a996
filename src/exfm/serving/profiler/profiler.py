"""Measures the layers of a request. A request that is not traced has None in the profiler's place.

Models compute in the event loop's one thread, so between two points without an await that thread's CPU time is the
layer's own. During a wait, other requests may compute, so a layer that waits counts no CPU time.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from exfm.errors import RequestError, ServingError
from exfm.serving.profiler.breakdown import Breakdown, Layer, LayerTime, ShardBreakdown

TRACE = "trace"
"""The request parameter that asks for a breakdown, and the answer's parameter with the breakdown as JSON."""

_UNTIMED = nullcontext()


def wants_breakdown(value: Any) -> bool:
    """Return whether a request's parameter `trace` (None: not given) asks for a breakdown.

    Raises: RequestError if it is neither true nor false.
    """
    if not isinstance(value, bool | None):
        raise RequestError(f"parameter {TRACE!r} is {value!r:.40}, expected true or false")
    return bool(value)


def timed(profiler: "Profiler | None", layer: Layer) -> AbstractContextManager[None]:
    """Measure a block, if there is a profiler."""
    return _UNTIMED if profiler is None else profiler.measure(layer)


def awaited(profiler: "Profiler | None", shard: int) -> AbstractContextManager[None]:
    """Measure a block that sends a lookup to a shard and ends with its answer, if there is a profiler."""
    return _UNTIMED if profiler is None else profiler.awaiting(shard)


@dataclass(frozen=True)
class Interval:
    """When a layer, or a shard's lookup, began and ended, by time.perf_counter_ns; other requests' turns included."""

    name: str
    began_ns: int
    ended_ns: int
    cpu_ns: int
    """The layer's own CPU time."""


class Profiler:
    """Measures one request at one server, from its construction on."""

    def __init__(self) -> None:
        self.began_ns = time.perf_counter_ns()
        self.intervals: list[Interval] = []
        self._wall_ns: dict[Layer, int] = {}
        self._cpu_ns: dict[Layer, int] = {}
        self._shards_wall_ns: dict[int, int] = {}
        self._reports: dict[int, bytes] = {}

    @classmethod
    def since(cls, came_ns: int) -> "Profiler":
        """Return the profiler of a request that waits since `came_ns` of time.perf_counter_ns."""
        profiler = cls()
        profiler._wall_ns[Layer.QUEUE], profiler._cpu_ns[Layer.QUEUE] = profiler.began_ns - came_ns, 0
        profiler.intervals.append(Interval(Layer.QUEUE, came_ns, profiler.began_ns, 0))
        profiler.began_ns = came_ns
        return profiler

    @contextmanager
    def measure(self, layer: Layer) -> Iterator[None]:
        """Count a block's time for a layer, without the time of layers measured inside it."""
        others_wall_ns, others_cpu_ns = sum(self._wall_ns.values()), sum(self._cpu_ns.values())
        began_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
        try:
            yield
        finally:
            cpu_ns, ended_ns = time.thread_time_ns() - cpu_ns, time.perf_counter_ns()
            others_wall_ns = sum(self._wall_ns.values()) - others_wall_ns
            others_cpu_ns = sum(self._cpu_ns.values()) - others_cpu_ns
            self._wall_ns[layer] = self._wall_ns.get(layer, 0) + ended_ns - began_ns - others_wall_ns
            own_cpu_ns = 0 if layer.is_waiting else cpu_ns - others_cpu_ns
            self._cpu_ns[layer] = self._cpu_ns.get(layer, 0) + own_cpu_ns
            self.intervals.append(Interval(layer, began_ns, ended_ns, own_cpu_ns))

    @contextmanager
    def awaiting(self, shard: int) -> Iterator[None]:
        """Measure a block that sends a lookup to a shard and ends with its answer, unless it raises."""
        sent_ns = time.perf_counter_ns()
        yield
        came_ns = time.perf_counter_ns()
        self._shards_wall_ns[shard] = came_ns - sent_ns
        self.intervals.append(Interval(f"shard {shard}", sent_ns, came_ns, 0))

    def reported(self, shard: int, report: bytes) -> None:
        """Take an awaited shard's own breakdown, which is parsed after the request."""
        self._reports[shard] = report

    def read(self) -> Breakdown:
        """Return the breakdown so far.

        Raises: ServingError if a shard's breakdown is malformed.
        """
        total_ns, process_cpu_ns = time.perf_counter_ns() - self.began_ns, time.process_time_ns()
        return Breakdown(
            total_ns=total_ns,
            process_cpu_ns=process_cpu_ns,
            layers={
                layer: LayerTime(wall_ns=wall_ns, cpu_ns=self._cpu_ns[layer])
                for layer, wall_ns in self._wall_ns.items()
            },
            shards={
                shard: ShardBreakdown(wall_ns=self._shards_wall_ns[shard], server=_breakdown_of(shard, report))
                for shard, report in sorted(self._reports.items())
            },
        )


def _breakdown_of(shard: int, text: bytes) -> Breakdown:
    try:
        return Breakdown.from_json(text)
    except RequestError as error:
        raise ServingError(
            f"shard {shard} returned a malformed breakdown ({error}); use one release of exfm"
        ) from error
