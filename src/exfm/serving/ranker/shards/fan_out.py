"""The shards, asked all at once."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from exfm.models.scoring import NetSums
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import Stopwatch, timed
from exfm.serving.ranker.shards.link import NO_ANSWER, NetBags, ShardCall
from exfm.serving.requests.call import Deadline

Found = TypeVar("Found")

TURNS_TO_SEND = 2
"""Turns of the event loop in which a stream sends a request: its task's own, and uvloop's for what was written."""


class Shard(Protocol):
    """What can be asked for sums: a link, or one behind its breaker."""

    async def sums(self, call: ShardCall) -> NetSums:
        """Return the shard's sums of a call's bags."""


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
    calls = [
        ShardCall(of_shard, deadline, None if stopwatch is None else stopwatch.of_shard(number))
        for number, of_shard in enumerate(bags)
    ]
    tasks = [
        asyncio.create_task(_ask(shard, call, may_miss=may_miss)) for shard, call in zip(shards, calls, strict=True)
    ]
    try:
        # Tables of this server are looked up in the last of them, in one thread: others' cores are the shards' then.
        for _ in range(TURNS_TO_SEND + 1):
            await asyncio.sleep(0)
        found = meanwhile()
        with timed(stopwatch, Layer.WAIT):
            return await asyncio.gather(*tasks), found
    except BaseException:
        for task in tasks:
            task.cancel()
        asyncio.gather(*tasks, return_exceptions=True)  # so that no failure of another counts as never seen
        raise


async def _ask(shard: Shard, call: ShardCall, *, may_miss: bool) -> NetSums | None:
    if not call.bags:
        return {}
    try:
        return await shard.sums(call)
    except NO_ANSWER:
        if may_miss:
            return None
        raise
