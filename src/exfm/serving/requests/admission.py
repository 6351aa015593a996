"""The limit on concurrent requests: a server refuses further requests at once, so none waits for a late answer.

A model computes in the event loop, which sees no new request meanwhile, and gRPC hands the loop one call after another.
A busy server would compute each call before it counts the next, while the others wait uncounted in gRPC's queue. So
before a request is computed, the loop turns until no more calls arrive.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter

from exfm.errors import OverloadedError

TURNS_ALONE = 3
"""Turns of the event loop in which a call that gRPC holds arrives."""
TURNS_AMONG_OTHERS = 10
"""Turns without a new call after which no more are expected: gRPC's thread needs some turns for each call."""
MAX_TURNS = 100
"""Most turns before one request, so that some are answered even in a flood without a pause."""

REFUSED = Counter(
    "exfm_refused_requests",
    "Requests refused because max_concurrency requests were under way; if this continues, there are too few servers",
    ["model"],
)


class Admission:
    """Counts a model's requests under way, of all protocols."""

    def __init__(self, model: str, *, max_concurrency: int) -> None:
        """Admit at most `max_concurrency` requests at once."""
        self._model = model
        self._max_concurrency = max_concurrency
        self._num_taken = 0
        self._num_heard = 0
        self._entry = asyncio.Lock()
        self._refused = REFUSED.labels(model=model)  # exported as 0 before the first refusal

    def check(self) -> None:
        """Return if a request would be admitted now; called when it arrives, before its body is complete.

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
        """Admit a request whose body is complete; the caller calls `release` when it is answered or given up.

        Raises: OverloadedError if too many are under way.
        """
        self.check()
        self._num_taken += 1

    def release(self) -> None:
        """Count a request as ended."""
        assert self._num_taken > 0, "it was taken"
        self._num_taken -= 1

    async def begin(self) -> None:
        """Return when an admitted request may be computed: every request that has arrived was admitted or refused."""
        num_quiet, num_needed = 0, TURNS_ALONE
        async with self._entry:
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
        """Admit a request while a block computes and answers it; raises as `take`."""
        self.take()
        try:
            yield
        finally:
            self.release()
