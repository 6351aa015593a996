"""Requests whose embeddings are there, scored together: a queue before the dense part, in the event loop.

A batch is computed when it is full, when all that are under way are in it, or when one has waited long enough; so a
request that is alone waits for nobody. Computing holds the loop, and what comes meanwhile is the next batch.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import Histogram

from exfm.errors import DeadlineError
from exfm.models.dense_part import Scores, Unscored
from exfm.serving.call import Deadline
from exfm.serving.config import RankerConfig

BATCHES = Histogram(
    "exfm_ranker_batch_requests",
    "Requests that were scored together, with max_batch_candidates",
    ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64),
)


Score = Callable[[Unscored, Deadline], Awaitable[Scores]]
"""Returns a request's scores, or raises DeadlineError if its time passed before it was its turn, or what computing
raises."""


@dataclass(frozen=True)
class Waiting:
    """A request that waits for its batch."""

    request: Unscored
    deadline: Deadline
    until_s: float
    """When it waits for no others any more, on the batcher's clock."""
    scores: asyncio.Future[Scores]
    """Done before it has any if nobody wants them any more."""


class Batcher:
    """Scores requests together, in the order in which they come, unless the settings want each alone."""

    def __init__(
        self,
        compute: Callable[[Sequence[Unscored]], list[Scores]],
        *,
        model: str,
        config: RankerConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Score by `compute`, which returns as many as it is given."""
        self._compute = compute
        self._clock = clock
        self._max_candidates = config.max_batch_candidates
        self._wait_s = config.batch_wait_us * 1e-6
        self._sizes = BATCHES.labels(model=model) if self._max_candidates else None
        self._num_under_way = 0
        self._waiting: deque[Waiting] = deque()
        self._scoring: asyncio.Task[None] | None = None

    @contextmanager
    def under_way(self, *, alone: bool = False) -> Iterator[Score]:
        """Yield what scores a request that is under way meanwhile: with others, who may wait for it, or `alone`."""
        if alone:
            yield self._scored_alone
            return
        self._num_under_way += 1
        try:
            yield self._scored_together
        finally:
            self._num_under_way -= 1

    async def _scored_alone(self, request: Unscored, deadline: Deadline) -> Scores:
        return self._computed([request])[0]

    async def _scored_together(self, request: Unscored, deadline: Deadline) -> Scores:
        if not self._max_candidates or (self._num_under_way <= 1 and not self._waiting):
            return self._computed([request])[0]
        wait_s = min(self._wait_s, deadline.remaining_s() / 2)  # the rest is for computing
        waiting = Waiting(request, deadline, self._clock() + wait_s, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._scoring is None or self._scoring.done():
            self._scoring = asyncio.create_task(self._score_all())  # begins once this turn of the loop is over
        return await waiting.scores

    async def _score_all(self) -> None:
        while self._waiting:
            while self._may_grow():
                # uvloop's timers know whole milliseconds only, so the loop turns.
                await asyncio.sleep(0)
            self._score(self._next_batch())
            await asyncio.sleep(0)  # answers go out before the next is computed

    def _may_grow(self) -> bool:
        """Return whether the next batch has room and time, and there are others who may come."""
        waiting = [one for one in self._waiting if not one.scores.done()]
        return (
            0 < len(waiting) < self._num_under_way
            and self._clock() < min(one.until_s for one in waiting)
            and sum(one.request.num_items for one in waiting) < self._max_candidates
        )

    def _next_batch(self) -> list[Waiting]:
        """Return the first ones that have room together, or the first alone if it has none; not those out of time."""
        batch: list[Waiting] = []
        num_candidates = 0
        while self._waiting:
            first = self._waiting[0]
            if first.scores.done() or _is_late(first):
                self._waiting.popleft()
                continue
            num_candidates += first.request.num_items
            if batch and num_candidates > self._max_candidates:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _score(self, batch: Sequence[Waiting]) -> None:
        if not batch:
            return
        try:
            scores = self._computed([one.request for one in batch])
        except Exception as error:  # each of them raises it, where it waits
            for one in batch:
                one.scores.set_exception(error)
            return
        for one, of_one in zip(batch, scores, strict=True):
            one.scores.set_result(of_one)

    def _computed(self, requests: Sequence[Unscored]) -> list[Scores]:
        if self._sizes is not None:
            self._sizes.observe(len(requests))
        return self._compute(requests)


def _is_late(one: Waiting) -> bool:
    try:
        one.deadline.check("others were waited for, to be scored together")
    except DeadlineError as error:
        one.scores.set_exception(error)
        return True
    return False
