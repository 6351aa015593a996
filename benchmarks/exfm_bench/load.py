"""Requests sent to a server: when they are due (open loop), or each after the last response (closed loop)."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import grpc
import httpx
import numpy as np
import numpy.typing as npt

from exfm.serving.oip.grpc.protobuf import INFER_METHOD

Floats = npt.NDArray[np.float64]

Send = Callable[[bytes], Awaitable[bytes]]
"""Sends a serialized request, and returns the serialized response."""

At = Sequence[tuple[int, Callable[[], None]]]
"""Requests' numbers, and what is called just before those requests."""

ANSWER_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Outcome:
    """What a client saw; failed requests count for the time that they took."""

    latency_ms: Floats
    """Time from when a request was due (in a closed loop: was sent) to its response."""
    num_failed: int


def new_runner() -> asyncio.Runner:
    """Return what runs a client's coroutines, to the microsecond: asyncio's usual epoll rounds up to a millisecond."""
    return asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector()))


def drive(address: str, messages: Sequence[bytes], due_s: Floats, *, at: At = ()) -> Outcome:
    """Return what sending requests to a ranker gave: message i % len(messages) is due at `due_s[i]` from now."""

    async def connect_and_send() -> Outcome:
        async with grpc.aio.insecure_channel(address) as channel:
            await channel.channel_ready()
            return await send_when_due(sender_of(channel), messages, due_s, at=at)

    with new_runner() as runner:
        return runner.run(connect_and_send())


def sender_of(channel: grpc.aio.Channel) -> Send:
    """Return what sends requests to a ranker's gRPC server."""
    call = channel.unary_unary(INFER_METHOD)

    async def send(message: bytes) -> bytes:
        answer: bytes = await call(message, timeout=ANSWER_TIMEOUT_S)
        return answer

    return send


async def send_when_due(send: Send, messages: Sequence[bytes], due_s: Floats, *, at: At = ()) -> Outcome:
    """Return what an open loop gave: requests are sent when due, whether the ones before were answered or not."""
    hooks = dict(at)
    clock = asyncio.get_running_loop().time
    sending = _Sending(send, messages, len(due_s))
    start_s = clock() + 0.05
    tasks = set()
    for number, due in enumerate(start_s + due_s):
        if number in hooks:
            hooks[number]()
        await asyncio.sleep(due - clock())
        task = asyncio.create_task(sending.send(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return sending.outcome(since_s=start_s + due_s)


async def send_in_turn(send: Send, messages: Sequence[bytes], num_requests: int, *, in_flight: int = 1) -> Outcome:
    """Return the outcome of a closed loop: this many clients each send a request when their last one is answered."""
    clock = asyncio.get_running_loop().time
    sending = _Sending(send, messages, num_requests)
    sent_s = np.zeros(num_requests)
    numbers = iter(range(num_requests))

    async def send_some(numbers: Iterable[int]) -> None:
        for number in numbers:
            sent_s[number] = clock()
            await sending.send(number)

    await asyncio.gather(*(send_some(numbers) for _ in range(in_flight)))
    return sending.outcome(since_s=sent_s)


class _Sending:
    """Requests under way: when each was answered, and which failed."""

    def __init__(self, send: Send, messages: Sequence[bytes], num_requests: int) -> None:
        self._send = send
        self._messages = messages
        self._clock = asyncio.get_running_loop().time
        self._answered_s = np.zeros(num_requests)
        self._num_failed = 0

    async def send(self, number: int) -> None:
        try:
            await self._send(self._messages[number % len(self._messages)])
        except (grpc.aio.AioRpcError, httpx.HTTPError):
            self._num_failed += 1
        self._answered_s[number] = self._clock()

    def outcome(self, *, since_s: Floats) -> Outcome:
        return Outcome(latency_ms=(self._answered_s - since_s) * 1e3, num_failed=self._num_failed)
