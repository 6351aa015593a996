"""What a server takes at once: over its bound it refuses, so that nobody waits for an answer that comes too late.

A model computes in the event loop, which hears of nothing meanwhile, and gRPC hands the loop one call after another: a
busy server would begin each as the first that it hears of, while the others waited, uncounted, in gRPC's own queue. So
before a request is begun the loop turns until no more come.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter

from exfm.errors import OverloadedError

TURNS_ALONE = 3
"""Turns of the event loop, some 5 us each, in which a call that gRPC holds is heard of."""
TURNS_AMONG_OTHERS = 10
"""Turns without another after which no more have come: gRPC's thread needs some for each."""
MAX_TURNS = 100
"""Turns before one request at most: some are answered even in a flood without a pause."""

REFUSED = Counter(
    "exfm_refused_requests",
    "Requests refused at once, since max_concurrency of them were under way; if it goes on, there are too few servers",
    ["model"],
)


class Admission:
    """Counts the requests that a model has taken and not answered yet, whichever door they came by."""

    def __init__(self, model: str, *, max_concurrency: int) -> None:
        """Take so many at once."""
        self._model = model
        self._max_concurrency = max_concurrency
        self._num_taken = 0
        self._num_heard = 0
        self._doorway = asyncio.Lock()
        self._refused = REFUSED.labels(model=model)  # shows 0 before the first

    def check(self) -> None:
        """Return if a request would be taken now; called when it is heard of, before its body is there.

        Raises: OverloadedError if too many are under way.
        """
        self._num_heard += 1
        if self._num_taken >= self._max_concurrency:
            self._refused.inc()
            raise OverloadedError(
                f"{self._model!r} has {self._num_taken} requests under way, and max_concurrency is "
                f"{self._max_concurrency}: try again in a moment; if it goes on, add servers"
            )

    def take(self) -> None:
        """Take a request whose body is there; `release` is called once it is answered or given up.

        Raises: OverloadedError if too many are under way.
        """
        self.check()
        self._num_taken += 1

    def release(self) -> None:
        """Give the place of a request back."""
        assert self._num_taken > 0, "it was taken"
        self._num_taken -= 1

    async def begin(self) -> None:
        """Return when a request that was taken may be begun: all that have come by now were taken or refused, too."""
        async with self._doorway:
            await self._until_quiet()

    async def _until_quiet(self) -> None:
        num_quiet, num_needed = 0, TURNS_ALONE
        for _ in range(MAX_TURNS):
            num_heard = self._num_heard
            await asyncio.sleep(0)
            num_quiet += 1
            if self._num_heard != num_heard:
                num_quiet, num_needed = 0, TURNS_AMONG_OTHERS
            if num_quiet == num_needed:
                return

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take a request, which is begun and answered in a block; raises as `take`."""
        self.take()
        try:
            yield
        finally:
            self.release()
