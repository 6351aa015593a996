"""A lookup that is sent once more if its answer takes long; the answer that comes first is taken.

Source: Dean and Barroso, The Tail at Scale (hedged requests); the share as gRPC's A6 throttles retries.
"""

import asyncio
from collections.abc import Sequence

from prometheus_client import Counter

from exfm.models.scoring import NetSums
from exfm.serving.config import RankerConfig
from exfm.serving.ranker.link import NO_ANSWER, ShardCall, ShardLink

HEDGED = Counter("exfm_ranker_hedged_lookups", "Lookups sent once more, since their answer took long", ["shard"])
WON = Counter("exfm_ranker_won_hedges", "Lookups answered by what was sent once more", ["shard"])

MAX_SAVED = 10.0
"""Lookups that may be sent once more in a row: what was allowed before and not needed is saved, up to this."""

TURNS_TO_READ = 8
"""Turns of the event loop in which an answer is read that came while this process computed."""


class Allowance:
    """Lets a share of lookups be sent once more; what is not used is saved, up to MAX_SAVED."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._saved = MAX_SAVED

    def earn(self) -> None:
        """Count a lookup."""
        self._saved = min(self._saved + self._share, MAX_SAVED)

    def spend(self) -> bool:
        """Return whether one may be sent once more, and count that."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


class Hedge:
    """Asks one shard, and once more where that takes long: by streams another replica, by gRPC the next in turn."""

    def __init__(self, link: ShardLink, *, config: RankerConfig) -> None:
        self._link = link
        self._after_s = config.hedge_after_ms * 1e-3
        self._allowance = Allowance(config.hedge_share)
        self._hedged, self._won = (of_shards.labels(shard=str(link.shard.shard)) for of_shards in (HEDGED, WON))

    async def sums(self, call: ShardCall) -> NetSums:
        """Return the shard's sums of a call's bags.

        Raises: as ShardLink's; where both fail as the first did.
        """
        self._allowance.earn()
        asked = [asyncio.create_task(self._link.sums(call))]
        try:
            if await self._takes_long(asked[0]) and self._allowance.spend():
                self._hedged.inc()
                asked.append(asyncio.create_task(self._link.sums(call)))
            answered = await _first_answered(asked)
        finally:
            for task in asked:
                task.cancel()
            asyncio.gather(*asked, return_exceptions=True)  # so that no failure counts as never seen
        sums = answered.result()
        if answered is not asked[0]:
            self._won.inc()
        return sums

    async def _takes_long(self, asked: asyncio.Task[NetSums]) -> bool:
        await asyncio.wait([asked], timeout=self._after_s)
        for _ in range(TURNS_TO_READ):
            if asked.done():
                return False
            await asyncio.sleep(0)
        return not asked.done()


async def _first_answered(asked: Sequence[asyncio.Task[NetSums]]) -> asyncio.Task[NetSums]:
    """Return what has sums first, or if all give none what was asked first.

    Any failure but that of a shard that is away, late or overloaded is not waited out.
    """
    waiting = set(asked)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in asked:
            if task in done and not isinstance(task.exception(), NO_ANSWER):
                return task
    return asked[0]
