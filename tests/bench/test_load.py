import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from exfm.serving.oip.grpc.protobuf import INFER_METHOD
from exfm_bench.load import Outcome, drive, new_runner, send_in_turn, sender_of


class SlowServer:
    """Answers one request at a time, each in `service_s`; in a thread of its own."""

    service_s = 0.02

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.address = ""
        self._is_up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self._thread.start()
        self._is_up.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._stopped = asyncio.Event()
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self._handlers(),))
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self._is_up.set()
        await self._stopped.wait()
        await server.stop(grace=None)

    def _handlers(self) -> Any:
        turn = asyncio.Lock()

        async def answer(request: bytes, context: Any) -> bytes:
            self.received.append(request)
            async with turn:
                await asyncio.sleep(self.service_s)
            if request == b"refuse":
                await context.abort(grpc.StatusCode.INTERNAL, "refused")
            return b""

        service, method = INFER_METHOD.strip("/").split("/")
        return grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(answer)})


@pytest.fixture
def server() -> Iterator[SlowServer]:
    server = SlowServer()
    yield server
    server.stop()


def test_requests_are_sent_when_due_though_none_was_answered(server: SlowServer) -> None:
    """Ten at once at a server that takes 20 ms each: a client that waited would see 20 ms ten times."""
    outcome = drive(server.address, [b"a"], np.zeros(10))
    assert (np.sort(outcome.latency_ms) > 19.0 * np.arange(1, 11)).all()
    assert outcome.num_failed == 0


def test_messages_come_in_turn_and_others_are_told_when(server: SlowServer) -> None:
    told: list[int] = []
    drive(server.address, [b"a", b"b"], 0.03 * np.arange(4), at=[(2, lambda: told.append(len(server.received)))])
    assert server.received == [b"a", b"b", b"a", b"b"]
    assert told in ([1], [2])  # the second may be under way


def test_requests_that_fail_are_counted(server: SlowServer) -> None:
    assert drive(server.address, [b"a", b"refuse"], 0.03 * np.arange(4)).num_failed == 2


def closed_loop(server: SlowServer, *, in_flight: int) -> Outcome:
    async def send() -> Outcome:
        async with grpc.aio.insecure_channel(server.address) as channel:
            await channel.channel_ready()
            return await send_in_turn(sender_of(channel), [b"a", b"refuse"], 8, in_flight=in_flight)

    with new_runner() as runner:
        return runner.run(send())


def test_in_a_closed_loop_no_request_waits_for_another_of_its_client(server: SlowServer) -> None:
    one = closed_loop(server, in_flight=1)
    assert np.median(one.latency_ms) < 2 * 1e3 * server.service_s
    assert one.num_failed == 4
    assert server.received == [b"a", b"refuse"] * 4


def test_of_four_clients_each_waits_for_the_other_three(server: SlowServer) -> None:
    assert (closed_loop(server, in_flight=4).latency_ms[3:] > 3.8 * 1e3 * server.service_s).all()
