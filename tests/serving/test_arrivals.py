"""Which requests are closed before their body is there."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from exfm.errors import StalledError, UnfinishedError
from exfm.serving.requests.arrivals import ARRIVAL_TICKS, IDLE_TICKS, Arrivals

TICK_S = 0.02
IDLE_S = IDLE_TICKS * TICK_S
ARRIVAL_S = ARRIVAL_TICKS * TICK_S


NEVER_S = 60


def make(*, max_requests: int = 10, max_bytes: int = 1_000, tick_s: float = TICK_S) -> Arrivals:
    return Arrivals(max_requests=max_requests, max_bytes=max_bytes, tick_s=tick_s)


async def come(arrivals: Arrivals, *parts: int, pause_s: float = 0, ends: bool = False, unseen_bytes: int = 0) -> str:
    """Return how a body of these parts ends: whole, or after them nothing comes."""
    try:
        async with arrivals.arriving(unseen_bytes=unseen_bytes) as received:
            for num_bytes in parts:
                received(num_bytes)
                await asyncio.sleep(pause_s)
            if not ends:
                await asyncio.sleep(NEVER_S)
    except (StalledError, UnfinishedError) as error:
        return str(error)
    return "whole"


def outcomes(*coming: Callable[[], Awaitable[str]]) -> list[str]:
    """Return how bodies end of which each begins some turns of the event loop after the one before."""

    async def all_come() -> list[str]:
        tasks = []
        for one in coming:
            tasks.append(asyncio.ensure_future(one()))
            for _ in range(3):
                await asyncio.sleep(0)
        return await asyncio.gather(*tasks)

    return asyncio.run(all_come())


def test_a_body_of_which_nothing_more_comes_is_closed() -> None:
    began_s = time.monotonic()
    [how] = outcomes(lambda: come(make(), 30, 12))
    assert how == f"the request has 42 B so far; no byte came for {IDLE_S:g} s; send all of it"
    assert IDLE_S * 0.9 < time.monotonic() - began_s < ARRIVAL_S


def test_a_body_that_comes_bit_by_bit_is_waited_for_but_not_for_ever() -> None:
    slow = [1] * (2 * IDLE_TICKS)
    endless = [1] * (2 * ARRIVAL_TICKS)
    found = outcomes(
        lambda: come(make(), *slow, pause_s=TICK_S, ends=True), lambda: come(make(), *endless, pause_s=TICK_S)
    )
    assert found == ["whole", f"the request was not complete within {ARRIVAL_S:g} s; send it faster"]


def test_one_too_many_closes_the_one_that_was_idle_for_longest() -> None:
    arrivals = make(max_requests=2, tick_s=NEVER_S)
    found = outcomes(
        lambda: come(arrivals, *[1] * 100, ends=True),  # a part each turn, all the while
        lambda: come(arrivals, 1),
        lambda: come(arrivals, 1, 1, 1, ends=True),
        lambda: come(arrivals, 1, 1, 1, ends=True),
    )
    assert found == [
        "whole",
        "3 requests are unfinished; max_unfinished_requests is 2: this one was idle for longest; send it again, faster",
        "whole",
        "whole",
    ]


def test_too_many_bytes_close_those_that_were_idle_for_longest_but_one_body_may_always_come() -> None:
    arrivals = make(max_bytes=100, tick_s=NEVER_S)
    found = outcomes(
        lambda: come(arrivals, 60),
        lambda: come(arrivals, 30),
        lambda: come(arrivals, 1),
        lambda: come(arrivals, 80, 80, 80, ends=True),
    )
    found = [how.partition(":")[0] for how in found]
    assert found == [
        *(f"unfinished requests hold {num_bytes} B; max_unfinished_bytes is 100" for num_bytes in (171, 111, 161)),
        "whole",
    ]


def test_a_body_that_is_not_seen_counts_in_full_once_others_would_be_idle() -> None:
    arrivals = make(max_bytes=100)
    found = outcomes(
        *[lambda: come(arrivals, unseen_bytes=50)] * 3,
        lambda: come(arrivals, ends=True, unseen_bytes=1_000),
    )
    assert found[0].startswith("unfinished requests hold 150 B; max_unfinished_bytes is 100")
    assert found[1:] == [f"the request was not complete within {ARRIVAL_S:g} s; send it faster"] * 2 + ["whole"]


def test_what_came_while_the_loop_was_held_is_read_before_a_body_is_idle() -> None:
    async def hold_the_loop() -> str:
        reader, writer = asyncio.Queue[int](), asyncio.Event()

        async def read() -> str:
            async with make().arriving() as received:
                writer.set()
                received(await reader.get())
            return "whole"

        task = asyncio.ensure_future(read())
        await writer.wait()
        asyncio.get_running_loop().call_later(TICK_S / 2, time.sleep, 2 * IDLE_S)
        asyncio.get_running_loop().call_later(IDLE_S, reader.put_nowait, 1)
        return await task

    assert asyncio.run(hold_the_loop()) == "whole"


def test_requests_that_are_over_count_no_more() -> None:
    arrivals = make(max_requests=1, max_bytes=100)

    async def break_off() -> None:
        task = asyncio.ensure_future(come(arrivals, 100))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(break_off())
    for _ in range(3):
        assert outcomes(lambda: come(arrivals, 100, ends=True)) == ["whole"]
    assert arrivals._num_bytes == 0
