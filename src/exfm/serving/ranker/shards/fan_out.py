"""Lookups sent to all shards at once."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from exfm.models.scoring import NetPooled
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import Profiler, timed
from exfm.serving.ranker.shards.link import NO_ANSWER, NetBags, ShardCall
from exfm.serving.requests.call import Deadline

Found = TypeVar("Found")

TURNS_TO_SEND = 2
"""Turns of the event loop until a stream has sent a request: one for its task, one in which uvloop writes."""


class Shard(Protocol):
    """What looks bags up: a link, or a link behind its breaker."""

    async def lookup(self, call: ShardCall) -> NetPooled:
        """Return the pooled embeddings of a call's bags."""


async def lookup_all(
    shards: Sequence[Shard],
    bags: Sequence[NetBags],
    *,
    deadline: Deadline,
    meanwhile: Callable[[], Found],
    may_miss: bool,
    profiler: Profiler | None = None,
) -> tuple[list[NetPooled | None], Found]:
    """Return each shard's pooled embeddings, and the result of `meanwhile`, which runs once all requests are sent.

    A shard without bags gets no request. With `may_miss`, the result of a shard that is away, late or overloaded is
    None. Any other failure, and every failure without `may_miss`, ends the wait for the other shards.

    Raises: ShardUnavailableError, OverloadedError, DeadlineError, VersionMismatchError, RequestError, ServingError;
    each names the shard.
    """
    tasks = [
        asyncio.create_task(_lookup(shard, ShardCall(of_shard, deadline, profiler), may_miss=may_miss))
        for shard, of_shard in zip(shards, bags, strict=True)
    ]
    try:
        # This server's own tables are looked up in the last turn, while the shards work.
        for _ in range(TURNS_TO_SEND + 1):
            await asyncio.sleep(0)
        found = meanwhile()
        with timed(profiler, Layer.WAIT):
            return await asyncio.gather(*tasks), found
    except BaseException:
        for task in tasks:
            task.cancel()
        asyncio.gather(*tasks, return_exceptions=True)  # or asyncio would log other failures as never retrieved
        raise


async def _lookup(shard: Shard, call: ShardCall, *, may_miss: bool) -> NetPooled | None:
    if not call.bags:
        return {}
    try:
        return await shard.lookup(call)
    except NO_ANSWER:
        if may_miss:
            return None
        raise
