"""A queue in the event loop of what several requests want computed, by one call.

A batch is computed when it is full, when no others are known to come, or when one has waited long enough; so a request
that is alone waits for nobody. Computing holds the loop, and what comes meanwhile is the next batch.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from prometheus_client import Histogram

from exfm.errors import DeadlineError
from exfm.serving.call import Deadline
from exfm.serving.config import ServerConfig

SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Of histograms of the requests in a batch."""

Request = TypeVar("Request")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Waiting(Generic[Request, Result]):
    """A request that waits for its batch."""

    request: Request
    size: int
    deadline: Deadline
    until_s: float
    """When it waits for no others any more, on the queue's clock."""
    result: asyncio.Future[Result]
    """Done before there is one if nobody wants it any more."""


class BatchQueue(Generic[Request, Result]):
    """Computes requests together, in the order in which they come, unless the settings want each alone."""

    def __init__(
        self,
        compute: Callable[[Sequence[Request]], Sequence[Result | Exception]],
        *,
        size_of: Callable[[Request], int],
        may_come: Callable[[int], bool],
        sizes: Histogram | None,
        config: ServerConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Compute by `compute`, which returns a result, or what is raised in its place, for each that it is given.

        `size_of` tells what a request takes of `max_batch_candidates`; `may_come` whether there are others on their way
        than so many that are here; how many are computed together is observed in `sizes`.
        """
        self._compute = compute
        self._size_of = size_of
        self._may_come = may_come
        self._sizes = sizes
        self._max_size = config.max_batch_candidates
        self._wait_s = config.batch_wait_us * 1e-6
        self._clock = clock
        self._waiting: deque[Waiting[Request, Result]] = deque()
        # Of those that wait and still want a result; kept up, as they are looked at each turn of the loop.
        self._num_wanted = self._size_wanted = 0
        self._until_s = math.inf
        self._working: asyncio.Task[None] | None = None

    def alone(self, request: Request) -> Result:
        """Return a request's result at once; raises what computing it raises."""
        [result] = self._computed([request])
        if isinstance(result, Exception):
            raise result
        return result

    async def together(self, request: Request, deadline: Deadline) -> Result:
        """Return a request's result once it was its turn, with others if there are some.

        Raises: DeadlineError if its time passed before; what computing it or its batch raises.
        """
        if not self._max_size or not (self._waiting or self._may_come(1)):
            return self.alone(request)
        return await self.put(request, deadline)

    def put(self, request: Request, deadline: Deadline) -> asyncio.Future[Result]:
        """Return where a request's result, or what `together` raises, will be; cancelled, it is not computed."""
        wait_s = min(self._wait_s, deadline.remaining_s() / 2)  # the rest is for computing
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        waiting = Waiting(request, self._size_of(request), deadline, self._clock() + wait_s, result)
        self._waiting.append(waiting)
        self._num_wanted += 1
        self._size_wanted += waiting.size
        self._until_s = min(self._until_s, waiting.until_s)
        result.add_done_callback(partial(self._want_no_more, waiting.size))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())  # begins once this turn of the loop is over
        return result

    def _want_no_more(self, size: int, _result: asyncio.Future[Result]) -> None:
        self._num_wanted -= 1
        self._size_wanted -= size

    async def _work(self) -> None:
        while self._waiting:
            while self._may_grow():
                # uvloop's timers know whole milliseconds only, so the loop turns.
                await asyncio.sleep(0)
            self._finish(self._next_batch())
            self._until_s = min((one.until_s for one in self._waiting), default=math.inf)
            await asyncio.sleep(0)  # answers go out before the next is computed

    def _may_grow(self) -> bool:
        """Return whether the next batch has room and time, and there are others who may come."""
        return (
            self._num_wanted > 0
            and self._size_wanted < self._max_size
            and self._may_come(self._num_wanted)
            and self._clock() < self._until_s
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
            size += first.size
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
            if isinstance(of_one, Exception):
                one.result.set_exception(of_one)
            else:
                one.result.set_result(of_one)

    def _computed(self, requests: Sequence[Request]) -> Sequence[Result | Exception]:
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
