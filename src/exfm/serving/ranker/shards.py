"""The shards, asked all at once."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from exfm.serving.call import Deadline
from exfm.serving.ranker.link import NetBags, NetSums, ShardLink

Found = TypeVar("Found")

TURNS_TO_SEND = 4
"""Turns of the event loop in which gRPC sends a request; a stream needs one."""


async def ask_all(
    links: Sequence[ShardLink], bags: Sequence[NetBags], *, deadline: Deadline, meanwhile: Callable[[], Found]
) -> tuple[list[NetSums], Found]:
    """Return each shard's sums of its bags, and what `meanwhile` gives, which runs once all requests are out.

    A shard without bags is not asked. The first failure ends the wait for the others.

    Raises: ShardUnavailableError, DeadlineError, VersionMismatchError, ServingError; each names the shard.
    """
    tasks = [asyncio.create_task(_ask(link, of_shard, deadline)) for link, of_shard in zip(links, bags, strict=True)]
    try:
        for _ in range(TURNS_TO_SEND):
            await asyncio.sleep(0)
        found = meanwhile()
        return await asyncio.gather(*tasks), found
    finally:
        for task in tasks:
            task.cancel()


async def _ask(link: ShardLink, bags: NetBags, deadline: Deadline) -> NetSums:
    if not bags:
        return {}
    deadline.check(f"{link} was not asked yet")
    return await link.sums(bags, deadline=deadline)
