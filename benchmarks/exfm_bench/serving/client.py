"""The client of all servers that are measured: one thread, and connections that stay open."""

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc
import httpx
import numpy as np

from exfm.errors import ServingError
from exfm.serving.local.serving import LocalServing
from exfm.serving.oip.grpc import protobuf as pb
from exfm.serving.oip.grpc.messages import tensors_of
from exfm_bench.cpu import CpuClock
from exfm_bench.load import ANSWER_TIMEOUT_S, Floats, Outcome, Send, new_runner, send_in_turn, send_when_due, sender_of
from exfm_bench.serving.blocks import Turn

CONNECT_S = 10.0

IN_FLIGHT = 4
"""Requests under way while a server's capacity or memory is measured, enough that its event loop never waits."""

NUM_PROBES, NUM_PROBING = 3, 60
"""A capacity is measured NUM_PROBES times, each with NUM_PROBING requests."""


def scores_of_message(answer: bytes) -> Floats:
    """Return the scores in a gRPC response, one task after another."""
    response = pb.ModelInferResponse.FromString(answer)
    if response.raw_output_contents:
        for output in response.outputs:
            output.ClearField("contents")  # KServe's own server sends them too, empty
    return np.concatenate([tensor.values.ravel() for tensor in tensors_of(response).values()])


@dataclass(frozen=True)
class Server:
    """Processes that answer requests, and how requests reach one of them."""

    name: str
    pids: tuple[int, ...]
    """The one that receives requests, then the others."""
    send: Send
    messages: Sequence[bytes]
    """The requests, in its form of them."""
    scores_of: Callable[[bytes], Floats] = scores_of_message


class Client:
    """Sends requests to servers, and counts their CPU time and its own."""

    def __init__(self) -> None:
        self._runner = new_runner()
        self._channels: list[grpc.aio.Channel] = []
        self._https: list[httpx.AsyncClient] = []

    def __enter__(self) -> Self:
        """Start, with what the collector of garbage need not look at any more."""
        gc.collect()
        gc.freeze()
        self._runner.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close all connections."""

        async def close() -> None:
            for channel in self._channels:
                await channel.close()
            for http in self._https:
                await http.aclose()

        self._runner.run(close())
        self._runner.__exit__(kind, error, at)
        gc.unfreeze()

    def server(self, name: str, local: LocalServing, messages: Sequence[bytes]) -> Server:
        """Return servers of exfm, which receive requests by gRPC."""
        pids = tuple(server.process.pid for server in local.servers)
        return Server(name, pids, self.connect(local.grpc_address), messages)

    def connect(self, address: str) -> Send:
        """Return what sends requests to a gRPC server."""

        async def connect() -> Send:
            channel = grpc.aio.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
            self._channels.append(channel)
            return sender_of(channel)

        return self._runner.run(connect())

    def connect_json(self, url: str) -> Send:
        """Return what posts JSON to a URL."""

        async def connect() -> Send:
            http = httpx.AsyncClient(trust_env=False, timeout=ANSWER_TIMEOUT_S)
            self._https.append(http)

            async def send(message: bytes) -> bytes:
                response = await http.post(url, content=message, headers={"content-type": "application/json"})
                return response.raise_for_status().content

            return send

        return self._runner.run(connect())

    def answer(self, server: Server, message: bytes) -> bytes:
        """Return a server's answer to a message.

        Raises: ServingError, which names the server.
        """

        async def send() -> bytes:
            return await server.send(message)

        try:
            return self._runner.run(send())
        except (grpc.aio.AioRpcError, httpx.HTTPError) as error:
            raise ServingError(f"{server.name} did not answer: {error}") from error

    def scores(self, server: Server, messages: Sequence[bytes]) -> Floats:
        """Return all scores that a server gives for these messages, one after another.

        Raises: ServingError.
        """
        return np.concatenate([server.scores_of(self.answer(server, message)) for message in messages])

    def send(self, server: Server, num_requests: int) -> Outcome:
        """Return the outcome of this many requests, of which IN_FLIGHT are always under way."""
        return self._runner.run(send_in_turn(server.send, server.messages, num_requests, in_flight=IN_FLIGHT))

    def requests_per_s(self, server: Server) -> float:
        """Return a server's capacity: the requests that it answers in a second while there are always more."""
        found = [self.send(server, NUM_PROBING) for _ in range(NUM_PROBES)]
        # This many are always under way, and each stays for its latency (Little's law).
        return float(np.median([IN_FLIGHT * 1e3 / one.latency_ms.mean() for one in found]))

    def turn(self, server: Server, num_requests: int, *, first: int, num_warmup: int, due_s: Floats | None) -> Turn:
        """Return what a server did with this many requests after the warm-up; `first` is the first message's number.

        `due_s` are the times when they are due; None sends one at a time, as the warm-up always does.
        """
        num_messages = len(server.messages)
        messages = [server.messages[(first + place) % num_messages] for place in range(num_warmup + num_requests)]
        pids = [*server.pids, os.getpid()]
        if num_warmup:
            self._runner.run(send_in_turn(server.send, messages, num_warmup))
        began = CpuClock.read(pids)
        if due_s is None:
            sending = send_in_turn(server.send, messages[num_warmup:], num_requests)
        else:
            sending = send_when_due(server.send, messages[num_warmup:], due_s)
        outcome = self._runner.run(sending)
        *servers_s, client_s = CpuClock.read(pids).since(began).processes_s
        return Turn(outcome.latency_ms, sum(servers_s[:1]), sum(servers_s[1:]), client_s, outcome.num_failed)
