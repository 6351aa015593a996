"""Run as a program: print the seconds that two lookups leave to a shard, as they reach it by `grpc` or `stream`.

A program, because it holds kserve's messages and pytest's process holds tritonclient's.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import numpy as np

from exfm.errors import OverloadedError
from exfm.models.lookup import LookupBags
from exfm.serving.call import Deadline
from exfm.serving.config import RankerConfig
from exfm.serving.ranker.grpc_link import GrpcLink
from exfm.serving.ranker.link import ShardCall, ShardId, ShardLink
from exfm.serving.ranker.stream_link import StreamLink
from exfm.serving.stream.frames import HEAD, Frame, Kind, error_frame, greeting_frame, read_ask
from exfm.serving.wire import INFER_METHOD

SHARD = ShardId("students", "ab" * 32, 0, dims={"user": 4}, row_bytes={"user": np.array([8])})
BAGS = {"user": LookupBags(keys=np.zeros(1, dtype=np.uint64), lengths_LB=np.ones((1, 1), dtype=np.int32))}
Allowed = list[float]


@asynccontextmanager
async def grpc_shard(allowed_s: Allowed) -> AsyncIterator[str]:
    """Yield the address of what keeps the seconds that each lookup leaves, and answers that it is overloaded."""

    async def refuse(_: bytes, context: Any) -> None:
        allowed_s.append(context.time_remaining())
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")

    server = grpc.aio.server()
    service, method = INFER_METHOD.removeprefix("/").split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(refuse)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(grace=None)


@asynccontextmanager
async def stream_shard(allowed_s: Allowed) -> AsyncIterator[str]:
    """Yield the address of what does the same by streams."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            kind, num_nets, shard, size_bytes, request = HEAD.unpack(await reader.readexactly(HEAD.size))
            frame = Frame(kind, num_nets, shard, request, memoryview(await reader.readexactly(size_bytes)))
            if kind == Kind.PING:
                writer.write(greeting_frame(bundle_id=SHARD.bundle_id, shard=SHARD.shard))
                continue
            allowed_s.append(read_ask(frame).allowed_us * 1e-6)
            writer.write(error_frame(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "busy", request=request))

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"{host}:{port}"
    server.close()


async def ask(transport: str, first_s: float) -> Allowed:
    """Ask a shard twice, the second time with half the time that is left, and return what reached it."""
    allowed_s: Allowed = []
    serve, link_to = {"grpc": (grpc_shard, GrpcLink), "stream": (stream_shard, StreamLink)}[transport]
    async with serve(allowed_s) as address:
        link: ShardLink = link_to(SHARD, address, tls=None, config=RankerConfig())
        deadline = Deadline.after(first_s)
        for one in (deadline, deadline.share(0.5)):
            with suppress(OverloadedError):
                await link.sums(ShardCall(bags=BAGS, deadline=one))
        await link.close()
    return allowed_s


if __name__ == "__main__":
    print(*asyncio.run(ask(sys.argv[1], float(sys.argv[2]))))
