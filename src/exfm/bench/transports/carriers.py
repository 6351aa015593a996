"""Ways to carry a message to another process and its answer back, each as its own library would have it done.

All carry bytes, and hand an answer on as memory that nobody copies again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import grpc

from exfm.serving.config import RankerConfig, ShardConfig
from exfm.serving.connections import client_options, server_options
from exfm.serving.processes import LOOPBACK
from exfm.serving.stream.connection import Connection, new_staging
from exfm.serving.stream.frames import HEAD, Frame, Kind
from exfm.serving.wire import INFER_METHOD, split_raw_outputs, with_raw_outputs

MAX_BYTES = 2**30

Ask = Callable[[bytes], Awaitable[memoryview]]

Serve = Callable[[int, bytes], Awaitable[None]]
"""Answers all messages to a port of this machine with the same bytes, until cancelled."""

Connect = Callable[[int], AbstractAsyncContextManager[Ask]]


@dataclass(frozen=True)
class Carrier:
    """One way."""

    title: str
    package: str
    """What is installed for it."""
    serve: Serve
    connect: Connect

    def version(self) -> str:
        """Return the installed package's version, or an empty string if there is none."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return ""


class _Answering(Connection):
    """A server's end of a stream."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(max_body_bytes=MAX_BYTES, staging=new_staging())
        self._answer = answer

    def take(self, frame: Frame) -> None:
        """Answer."""
        self.send([HEAD.pack(Kind.ANSWER, 0, 0, len(self._answer), frame.request), self._answer])


class _Asking(Connection):
    """A client's end of a stream."""

    def __init__(self) -> None:
        super().__init__(max_body_bytes=MAX_BYTES, staging=new_staging())
        self._answered: asyncio.Future[memoryview] | None = None

    async def ask(self, message: bytes) -> memoryview:
        """Return the answer."""
        self._answered = asyncio.get_running_loop().create_future()
        self.send([HEAD.pack(Kind.ASK, 0, 0, len(message), 1), message])
        return await self._answered

    def take(self, frame: Frame) -> None:
        """Hand the answer on."""
        assert self._answered is not None, "it was asked for"
        self._answered.set_result(frame.body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits; the argument is asyncio's."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionResetError("the connection was closed"))


async def _serve_stream(port: int, answer: bytes) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Answering(answer), LOOPBACK, port)
    await server.serve_forever()


@asynccontextmanager
async def _connect_stream(port: int) -> AsyncIterator[Ask]:
    _, asking = await asyncio.get_running_loop().create_connection(_Asking, LOOPBACK, port)
    try:
        yield asking.ask
    finally:
        asking.transport.close()


async def _serve_grpc(port: int, answer: bytes) -> None:
    async def respond(request: bytes, context: Any) -> bytes:
        return with_raw_outputs(b"", [answer])

    service, method = INFER_METHOD.strip("/").split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(respond)}
    server = grpc.aio.server(options=server_options(ShardConfig(max_message_bytes=MAX_BYTES)))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"{LOOPBACK}:{port}")
    await server.start()
    await server.wait_for_termination()


@asynccontextmanager
async def _connect_grpc(port: int) -> AsyncIterator[Ask]:
    options = client_options(RankerConfig(max_message_bytes=MAX_BYTES))
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{port}", options=options) as channel:
        call = channel.unary_unary(INFER_METHOD)

        async def ask(message: bytes) -> memoryview:
            _, (answer,) = split_raw_outputs(await call(message))
            return answer

        yield ask


async def _serve_zmq(port: int, answer: bytes) -> None:
    import zmq.asyncio

    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(f"tcp://{LOOPBACK}:{port}")
        while True:
            client, *_ = await router.recv_multipart(copy=False)
            await router.send_multipart([client, answer], copy=False)


@asynccontextmanager
async def _connect_zmq(port: int) -> AsyncIterator[Ask]:
    import zmq.asyncio

    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://{LOOPBACK}:{port}")

        async def ask(message: bytes) -> memoryview:
            await dealer.send(message, copy=False)
            answer: memoryview = (await dealer.recv(copy=False)).buffer
            return answer

        yield ask


async def _serve_flight(port: int, answer: bytes) -> None:
    import pyarrow.flight

    batch = _batch_of(answer)

    class Server(pyarrow.flight.FlightServerBase):  # type: ignore[misc]  # pyarrow ships no types
        def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
            writer.begin(batch.schema)
            for _ in reader:
                writer.write_batch(batch)

    with Server(f"grpc://{LOOPBACK}:{port}") as server:
        await asyncio.to_thread(server.serve)


@asynccontextmanager
async def _connect_flight(port: int) -> AsyncIterator[Ask]:
    import pyarrow.flight

    with pyarrow.flight.connect(f"grpc://{LOOPBACK}:{port}") as client:
        writer, reader = client.do_exchange(pyarrow.flight.FlightDescriptor.for_command(b""))
        writer.begin(_batch_of(b"").schema)

        def exchange(message: bytes) -> memoryview:
            try:
                writer.write_batch(_batch_of(message))
                return memoryview(reader.read_chunk().data.column(0).buffers()[1])
            except pyarrow.ArrowException as error:
                raise ConnectionResetError(str(error)) from error

        async def ask(message: bytes) -> memoryview:
            return await asyncio.to_thread(exchange, message)

        try:
            yield ask
        finally:
            with suppress(pyarrow.ArrowException):  # of a server that is gone
                writer.close()


def _batch_of(content: bytes) -> Any:
    import pyarrow as pa

    array = pa.Array.from_buffers(pa.uint8(), len(content), [None, pa.py_buffer(content)])
    return pa.record_batch([array], names=["content"])


CARRIERS: Mapping[str, Carrier] = {
    "stream": Carrier("exfm's streams", "exfm", _serve_stream, _connect_stream),
    "zmq": Carrier("pyzmq, DEALER to ROUTER", "pyzmq", _serve_zmq, _connect_zmq),
    "flight": Carrier("Arrow Flight, one exchange", "pyarrow", _serve_flight, _connect_flight),
    "grpc": Carrier("grpc.aio, with exfm's options", "grpcio", _serve_grpc, _connect_grpc),
}
"""All ways, by the names that servers' processes are started with; others are compared with the first."""
