"""The shards, asked all at once."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from exfm.models.scoring import NetSums
from exfm.serving.call import Deadline
from exfm.serving.ranker.link import NO_ANSWER, NetBags
from exfm.serving.tracing.breakdown import Layer
from exfm.serving.tracing.stopwatch import ShardStopwatch, Stopwatch, timed

Found = TypeVar("Found")

TURNS_TO_SEND = 5
"""Turns of the event loop in which gRPC sends a request, one of them for hedging; a stream needs one or two."""


class Shard(Protocol):
    """What can be asked for sums: a link, or one behind its breaker."""

    async def sums(self, bags: NetBags, *, deadline: Deadline, stopwatch: ShardStopwatch | None = None) -> NetSums:
        """Return the shard's sums of these bags."""


async def ask_all(
    shards: Sequence[Shard],
    bags: Sequence[NetBags],
    *,
    deadline: Deadline,
    meanwhile: Callable[[], Found],
    may_miss: bool,
    stopwatch: Stopwatch | None = None,
) -> tuple[list[NetSums | None], Found]:
    """Return each shard's sums of its bags, and what `meanwhile` gives, which runs once all requests are out.

    A shard without bags is not asked. With `may_miss`, None stands for the sums of one that is away, late or
    overloaded. Any other failure, and without it any at all, ends the wait for the others.

    Raises: ShardUnavailableError, OverloadedError, DeadlineError, VersionMismatchError, RequestError, ServingError;
    each names the shard.
    """
    tasks = [
        asyncio.create_task(
            _ask(
                shard,
                of_shard,
                deadline,
                may_miss=may_miss,
                stopwatch=None if stopwatch is None else stopwatch.of_shard(number),
            )
        )
        for number, (shard, of_shard) in enumerate(zip(shards, bags, strict=True))
    ]
    try:
        for _ in range(TURNS_TO_SEND):
            await asyncio.sleep(0)
        found = meanwhile()
        with timed(stopwatch, Layer.WAIT):
            return await asyncio.gather(*tasks), found
    except BaseException:
        for task in tasks:
            task.cancel()
        asyncio.gather(*tasks, return_exceptions=True)  # so that no failure of another counts as never seen
        raise


async def _ask(
    shard: Shard, bags: NetBags, deadline: Deadline, *, may_miss: bool, stopwatch: ShardStopwatch | None
) -> NetSums | None:
    if not bags:
        return {}
    try:
        return await shard.sums(bags, deadline=deadline, stopwatch=stopwatch)
    except NO_ANSWER:
        if may_miss:
            return None
        raise
