"""An open loop of requests: they are sent when they are due, whether the ones before were answered or not."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from exfm.serving.wire import INFER_METHOD

Floats = npt.NDArray[np.float64]

_ANSWER_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Outcome:
    """What an open loop's client saw; failed requests count for the time that they took."""

    latency_ms: Floats
    """From when a request was due to when its answer was there."""
    num_failed: int


def drive(
    address: str, messages: Sequence[bytes], due_s: Floats, *, at: Sequence[tuple[int, Callable[[], None]]] = ()
) -> Outcome:
    """Return what sending requests to a ranker gave: message i % len(messages) is due at `due_s[i]` from now.

    Each pair of `at` is a request's number and what is called just before that request is due.
    """
    # select() waits to the microsecond; asyncio's usual epoll rounds up to the next millisecond.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(_drive(address, messages, due_s, dict(at)))


async def _drive(address: str, messages: Sequence[bytes], due_s: Floats, at: dict[int, Callable[[], None]]) -> Outcome:
    num_requests = len(due_s)
    answered_s = np.zeros(num_requests)
    failures: list[int] = []
    loop = asyncio.get_running_loop()

    async def ask(call: Callable[..., Awaitable[Any]], number: int) -> None:
        try:
            await call(messages[number % len(messages)], timeout=_ANSWER_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            failures.append(number)
        answered_s[number] = loop.time()

    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(INFER_METHOD)
        await channel.channel_ready()
        start_s = loop.time() + 0.05
        tasks = set()
        for number, due in enumerate(start_s + due_s):
            if number in at:
                at[number]()
            await asyncio.sleep(due - loop.time())
            task = asyncio.create_task(ask(call, number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
    return Outcome(
        latency_ms=(answered_s - start_s - due_s) * 1e3,
        num_failed=len(failures),
    )
