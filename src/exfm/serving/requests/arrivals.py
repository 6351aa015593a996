"""Requests whose body is incomplete: limited in number and bytes, and closed when no bytes arrive.

They do not count towards `max_concurrency`, so slow clients do not block others.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from prometheus_client import Counter

from exfm.errors import ServingError, StalledError, UnfinishedError

TICK_S = 0.5
"""Length of a tick. Timeouts count ticks, so bytes that arrived while a model computed are read in time."""
IDLE_TICKS = 4
"""Timeout of the next bytes of a body: 2 s."""
ARRIVAL_TICKS = 30
"""Timeout of a whole body: 15 s."""

CLOSED = Counter(
    "exfm_closed_unfinished_requests",
    "Requests closed before their body was complete: it was too slow, or too many were unfinished",
)


@dataclass(eq=False)
class Arrival:
    """One request whose body is incomplete."""

    unseen_bytes: int
    num_bytes: int = 0
    num_ticks: int = 0
    num_idle_ticks: int = 0
    timeout: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))
    timer: asyncio.TimerHandle | None = None
    make_error: Callable[[], ServingError] | None = None
    """Not the error itself, whose traceback would keep the body in memory."""


class Arrivals:
    """All requests of a server whose body is incomplete, by REST and gRPC."""

    def __init__(self, *, max_requests: int, max_bytes: int, tick_s: float = TICK_S) -> None:
        """Hold at most `max_requests` and `max_bytes`; over a limit, requests that were idle for longest are closed."""
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._tick_s = tick_s
        self._num_bytes = 0
        self._unfinished: OrderedDict[Arrival, None] = OrderedDict()
        """The request that was idle for longest is first."""

    @asynccontextmanager
    async def arriving(self, *, unseen_bytes: int = 0) -> AsyncIterator[Callable[[int], None]]:
        """Read a body in a block, which calls the yielded function with the number of bytes of each part.

        `unseen_bytes`: for a protocol that shows only complete bodies. After IDLE_TICKS the body counts as this many
        bytes, and is not closed as idle.

        Raises: StalledError if the body is too slow; UnfinishedError if it is closed to make room for others.
        """
        arrival = Arrival(unseen_bytes=unseen_bytes)
        try:
            async with arrival.timeout:
                self._unfinished[arrival] = None
                self._wait(arrival)
                self._make_room()
                try:
                    yield partial(self._receive, arrival)
                finally:
                    self._forget(arrival)
        except TimeoutError as error:
            if arrival.make_error is None:
                raise
            raise arrival.make_error() from error

    def _receive(self, arrival: Arrival, num_bytes: int) -> None:
        if arrival in self._unfinished:  # or it was closed, and its task does not know yet
            arrival.num_idle_ticks = 0
            self._unfinished.move_to_end(arrival)
            self._count(arrival, num_bytes)

    def _count(self, arrival: Arrival, num_bytes: int) -> None:
        arrival.num_bytes += num_bytes
        self._num_bytes += num_bytes
        self._make_room()

    def _make_room(self) -> None:
        """Close the requests that were idle for longest until the rest is within the limits; one is always allowed."""
        while (num := len(self._unfinished)) > 1 and (num > self._max_requests or self._num_bytes > self._max_bytes):
            found = (
                f"{num} requests are unfinished; max_unfinished_requests is {self._max_requests}"
                if num > self._max_requests
                else f"unfinished requests hold {self._num_bytes} B; max_unfinished_bytes is {self._max_bytes}"
            )
            message = f"{found}: this one was idle for longest; send it again, faster"
            self._close(next(iter(self._unfinished)), partial(UnfinishedError, message))

    def _wait(self, arrival: Arrival) -> None:
        arrival.timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick, arrival)

    def _tick(self, arrival: Arrival) -> None:
        arrival.num_ticks += 1
        arrival.num_idle_ticks += 1
        self._wait(arrival)
        if arrival.num_ticks == ARRIVAL_TICKS:
            message = f"the request was not complete within {ARRIVAL_TICKS * self._tick_s:g} s; send it faster"
            self._close(arrival, partial(StalledError, message))
        elif arrival.num_idle_ticks == IDLE_TICKS:
            if arrival.unseen_bytes:
                self._count(arrival, arrival.unseen_bytes)
            else:
                idle_s = IDLE_TICKS * self._tick_s
                message = f"the request has {arrival.num_bytes} B so far; no byte came for {idle_s:g} s; send all of it"
                self._close(arrival, partial(StalledError, message))

    def _close(self, arrival: Arrival, make_error: Callable[[], ServingError]) -> None:
        CLOSED.inc()
        self._forget(arrival)
        arrival.make_error = make_error
        arrival.timeout.reschedule(0)

    def _forget(self, arrival: Arrival) -> None:
        if arrival in self._unfinished:
            del self._unfinished[arrival]
            self._num_bytes -= arrival.num_bytes
            assert arrival.timer is not None, "a request that is not closed has a timer"
            arrival.timer.cancel()
