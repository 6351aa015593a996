"""Requests whose embeddings are there, scored together: a queue before the dense part."""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import Histogram

from exfm.models.dense_part import Scores, Unscored
from exfm.serving.batch_queue import SIZE_BUCKETS, BatchQueue
from exfm.serving.call import Deadline
from exfm.serving.config import RankerConfig

BATCHES = Histogram(
    "exfm_ranker_batch_requests",
    "Requests that were scored together, with max_batch_candidates",
    ["model"],
    buckets=SIZE_BUCKETS,
)


Score = Callable[[Unscored, Deadline], Awaitable[Scores]]
"""Returns a request's scores, or raises DeadlineError if its time passed before it was its turn, or what computing
raises."""


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
        self._num_under_way = 0
        self._queue = BatchQueue(
            compute,
            size_of=lambda request: request.num_items,
            may_come=lambda num_here: num_here < self._num_under_way,
            sizes=BATCHES.labels(model=model) if config.max_batch_candidates else None,
            config=config,
            clock=clock,
        )

    @contextmanager
    def under_way(self, *, alone: bool = False) -> Iterator[Score]:
        """Yield what scores a request that is under way meanwhile: with others, who may wait for it, or `alone`."""
        if alone:
            yield self._scored_alone
            return
        self._num_under_way += 1
        try:
            yield self._queue.together
        finally:
            self._num_under_way -= 1

    async def _scored_alone(self, request: Unscored, deadline: Deadline) -> Scores:
        return self._queue.alone(request)
