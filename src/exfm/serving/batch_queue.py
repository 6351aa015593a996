"""A queue in the event loop of what several requests want computed, by one call.

A batch is computed when it is full, when all that are under way are in it, or when one has waited long enough; so a
request that is alone waits for nobody. Computing holds the loop, and what comes meanwhile is the next batch.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import Histogram

from exfm.errors import DeadlineError
from exfm.serving.call import Deadline
from exfm.serving.config import ServerConfig

NUM_REQUESTS = (1, 2, 4, 8, 16, 32, 64)
"""Buckets of histograms of the requests in a batch."""

Request = TypeVar("Request")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Waiting(Generic[Request, Result]):
    """A request that waits for its batch."""

    request: Request
    deadline: Deadline
    until_s: float
    """When it waits for no others any more, on the queue's clock."""
    result: asyncio.Future[Result]
    """Done before there is one if nobody wants it any more."""


class BatchQueue(Generic[Request, Result]):
    """Computes requests together, in the order in which they come, unless the settings want each alone."""

    def __init__(
        self,
        compute: Callable[[Sequence[Request]], list[Result]],
        *,
        size_of: Callable[[Request], int],
        num_under_way: Callable[[], int],
        sizes: Histogram | None,
        config: ServerConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Compute by `compute`, which returns as many as it is given.

        `size_of` tells a request's candidates, `num_under_way` the requests that wait here or may come; how many come
        together is observed in `sizes`.
        """
        self._compute = compute
        self._size_of = size_of
        self._num_under_way = num_under_way
        self._sizes = sizes
        self._max_size = config.max_batch_candidates
        self._wait_s = config.batch_wait_us * 1e-6
        self._clock = clock
        self._waiting: deque[Waiting[Request, Result]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def alone(self, request: Request, deadline: Deadline) -> Result:
        """Return a request's result at once."""
        return self._computed([request])[0]

    async def together(self, request: Request, deadline: Deadline) -> Result:
        """Return a request's result once it was its turn, with others or not.

        Raises: DeadlineError if its time passed before; what computing its batch raises.
        """
        if not self._max_size or (self._num_under_way() <= 1 and not self._waiting):
            return self._computed([request])[0]
        wait_s = min(self._wait_s, deadline.remaining_s() / 2)  # the rest is for computing
        waiting = Waiting[Request, Result](
            request, deadline, self._clock() + wait_s, asyncio.get_running_loop().create_future()
        )
        self._waiting.append(waiting)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())  # begins once this turn of the loop is over
        return await waiting.result

    async def _work(self) -> None:
        while self._waiting:
            while self._may_grow():
                # uvloop's timers know whole milliseconds only, so the loop turns.
                await asyncio.sleep(0)
            self._finish(self._next_batch())
            await asyncio.sleep(0)  # answers go out before the next is computed

    def _may_grow(self) -> bool:
        """Return whether the next batch has room and time, and there are others who may come."""
        waiting = [one for one in self._waiting if not one.result.done()]
        return (
            0 < len(waiting) < self._num_under_way()
            and self._clock() < min(one.until_s for one in waiting)
            and sum(self._size_of(one.request) for one in waiting) < self._max_size
        )

    def _next_batch(self) -> list[Waiting[Request, Result]]:
        """Return the first ones that have room together, or the first alone if it has none; not those out of time."""
        batch: list[Waiting[Request, Result]] = []
        size = 0
        while self._waiting:
            first = self._waiting[0]
            if first.result.done() or _is_late(first):
                self._waiting.popleft()
                continue
            size += self._size_of(first.request)
            if batch and size > self._max_size:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _finish(self, batch: Sequence[Waiting[Request, Result]]) -> None:
        if not batch:
            return
        try:
            results = self._computed([one.request for one in batch])
        except Exception as error:  # each of them raises it, where it waits
            for one in batch:
                one.result.set_exception(error)
            return
        for one, of_one in zip(batch, results, strict=True):
            one.result.set_result(of_one)

    def _computed(self, requests: Sequence[Request]) -> list[Result]:
        if self._sizes is not None:
            self._sizes.observe(len(requests))
        return self._compute(requests)


def _is_late(one: Waiting[Request, Result]) -> bool:
    try:
        one.deadline.check("others were waited for, to be computed together")
    except DeadlineError as error:
        one.result.set_exception(error)
        return True
    return False
