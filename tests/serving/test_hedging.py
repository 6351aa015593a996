"""When a lookup is sent once more, and which answer is taken."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from exfm.errors import DeadlineError, ServingError, ShardUnavailableError, VersionMismatchError
from exfm.models.lookup import LookupBags
from exfm.models.scoring import NetSums
from exfm.serving.call import Deadline
from exfm.serving.config import RankerConfig
from exfm.serving.ranker.hedging import MAX_SAVED, TURNS_TO_READ, Allowance, Hedge
from exfm.serving.ranker.link import NetBags, ShardCall, ShardId, ShardLink
from exfm.serving.tls import TlsFiles
from exfm.serving.tracing.stopwatch import ShardStopwatch, Stopwatch, awaited

BAGS: NetBags = {"user": LookupBags(np.arange(3, dtype=np.uint64), np.full((1, 1), 3, dtype=np.int32))}
FIRST, SECOND = ({"user": torch.full((1, 4), value)} for value in (1.0, 2.0))

Answer = Callable[[], Awaitable[NetSums]]


class SlowLink(ShardLink):
    """A shard whose answers are given, one for each time that it is asked."""

    def __init__(self, *answers: Answer) -> None:
        shard = ShardId("students", "0" * 64, 9, dims={"user": 4}, row_bytes={"user": np.array([16])})
        super().__init__(shard, "nowhere:1")
        self._answers = list(answers)
        self.stopwatches: list[ShardStopwatch | None] = []
        self.asked_before: list[set[object]] = []
        self.num_broken_off = 0

    async def sums(self, call: ShardCall) -> NetSums:
        answer = self._answers[len(self.stopwatches)]
        self.asked_before.append(set(call.asked))
        call.asked.add(len(self.stopwatches))
        self.stopwatches.append(call.stopwatch)
        try:
            return await answer()
        except asyncio.CancelledError:
            self.num_broken_off += 1
            raise

    async def check_ready(self, *, deadline: Deadline) -> None: ...

    async def keep(self, tls: TlsFiles | None) -> None: ...

    async def close(self) -> None: ...


def sums(value: NetSums) -> Answer:
    async def answer() -> NetSums:
        return value

    return answer


def never() -> Answer:
    async def answer() -> NetSums:
        await asyncio.Event().wait()
        raise AssertionError

    return answer


def fails(error: Exception) -> Answer:
    async def answer() -> NetSums:
        raise error

    return answer


async def ask(link: SlowLink, *, after_ms: int = 10) -> NetSums:
    hedge = Hedge(link, config=RankerConfig(hedge_after_ms=after_ms))
    found = await hedge.sums(ShardCall(BAGS, Deadline.after(10)))
    await asyncio.sleep(0)  # in which what is not waited for ends
    return found


def counted() -> list[float]:
    names = ("exfm_ranker_hedged_lookups_total", "exfm_ranker_won_hedges_total")
    return [REGISTRY.get_sample_value(name, {"shard": "9"}) or 0.0 for name in names]


def counts_of(asking: Awaitable[NetSums]) -> tuple[NetSums, list[float]]:
    """Return the sums, how many lookups were sent once more, and how many of those gave the sums."""

    async def run() -> NetSums:
        return await asking

    before = counted()
    found = asyncio.run(run())
    return found, list(np.subtract(counted(), before))


def test_a_shard_that_answers_in_time_is_asked_once() -> None:
    link = SlowLink(sums(FIRST))
    assert counts_of(ask(link, after_ms=60_000)) == (FIRST, [0, 0])
    assert len(link.stopwatches) == 1


def test_a_shard_that_takes_long_is_asked_once_more_and_the_first_is_broken_off() -> None:
    link = SlowLink(never(), sums(SECOND))
    assert counts_of(ask(link)) == (SECOND, [1, 1])
    assert link.num_broken_off == 1
    assert link.asked_before == [set(), {0}], "so that the second can go elsewhere"


def test_the_first_may_still_win() -> None:
    async def late() -> NetSums:
        while len(link.stopwatches) < 2:
            await asyncio.sleep(0)
        return FIRST

    link = SlowLink(late, never())
    assert counts_of(ask(link)) == (FIRST, [1, 0])
    assert link.num_broken_off == 1


def test_an_answer_that_came_while_this_process_computed_is_not_asked_for_again() -> None:
    async def run() -> NetSums:
        arrived = asyncio.Event()

        async def when_arrived() -> NetSums:
            await arrived.wait()
            for _ in range(TURNS_TO_READ - 2):  # as many as a large answer takes
                await asyncio.sleep(0)
            return FIRST

        asking = asyncio.create_task(ask(SlowLink(when_arrived), after_ms=10))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(arrived.set)
        time.sleep(0.05)  # as dense layers do
        return await asking

    assert counts_of(run()) == (FIRST, [0, 0])


@pytest.mark.parametrize("error", [ShardUnavailableError("away"), DeadlineError("late")], ids=str)
def test_a_failure_of_one_is_waited_out_for_the_other(error: ServingError) -> None:
    async def after_the_other() -> NetSums:
        while len(link.stopwatches) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return FIRST

    link = SlowLink(after_the_other, fails(error))
    assert counts_of(ask(link)) == (FIRST, [1, 0])


def test_where_both_fail_the_first_failure_tells() -> None:
    async def after_the_other() -> NetSums:
        while len(link.stopwatches) < 2:
            await asyncio.sleep(0)
        raise DeadlineError("the first")

    link = SlowLink(after_the_other, fails(ShardUnavailableError("the second")))
    with pytest.raises(DeadlineError, match="the first"):
        asyncio.run(ask(link))
    assert len(link.stopwatches) == 2


def test_another_bundle_is_not_waited_out() -> None:
    link = SlowLink(never(), fails(VersionMismatchError("another bundle")))
    with pytest.raises(VersionMismatchError, match="another bundle"):
        asyncio.run(ask(link))
    assert link.num_broken_off == 1


def test_who_is_broken_off_breaks_both_off() -> None:
    async def run() -> int:
        link = SlowLink(never(), never())
        asking = asyncio.create_task(ask(link))
        while len(link.stopwatches) < 2:
            await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.wait([asking])
        await asyncio.sleep(0)
        return link.num_broken_off

    assert asyncio.run(run()) == 2


def test_only_the_one_that_answers_tells_of_its_time() -> None:
    async def timed(*, number: int) -> NetSums:
        stopwatch = link.stopwatches[number]
        assert stopwatch is not None
        with awaited(stopwatch):
            await asyncio.sleep(60 if number == 0 else 0)
        stopwatch.told('{"total_ns": 1, "process_cpu_ns": 1, "layers": {}}')
        return SECOND

    async def run() -> Stopwatch:
        hedge, stopwatch = Hedge(link, config=RankerConfig(hedge_after_ms=10)), Stopwatch()
        await hedge.sums(ShardCall(BAGS, Deadline.after(10), stopwatch.of_shard(9)))
        return stopwatch

    link = SlowLink(partial(timed, number=0), partial(timed, number=1))
    stopwatch = asyncio.run(run())
    assert [one.name for one in stopwatch.intervals] == ["shard 9"]
    assert list(stopwatch.read().shards) == [9]


def spent(allowance: Allowance, *, lookups: int) -> Sequence[bool]:
    found = []
    for _ in range(lookups):
        allowance.earn()
        found.append(allowance.spend())
    return found


def test_no_more_than_a_share_is_sent_once_more_but_for_some_at_first() -> None:
    found = spent(Allowance(0.25), lookups=400)
    assert all(found[: int(MAX_SAVED)])
    assert sum(found) == pytest.approx(MAX_SAVED + 100, abs=2)
    assert sum(found[-100:]) == pytest.approx(25, abs=1)


def test_what_is_not_spent_is_saved_within_bounds() -> None:
    allowance = Allowance(0.5)
    for _ in range(1_000):
        allowance.earn()
    assert sum(allowance.spend() for _ in range(100)) == MAX_SAVED
