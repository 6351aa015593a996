"""The time that a ranker leaves to its shards, as it reaches them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc
import numpy as np

from exfm.errors import OverloadedError
from exfm.models.lookup import LookupBags
from exfm.serving.config import RankerConfig
from exfm.serving.ranker.shards.link import ShardCall
from exfm.serving.ranker.shards.stream_link import StreamLink
from exfm.serving.requests.call import Deadline
from exfm.serving.shard_protocol.frames import HEAD, Frame, Kind, error_frame, greeting_frame, read_request
from exfm.serving.shard_protocol.shard_id import ShardId

ALLOWED_S = 20.0
"""What it allows at first, and then half of that."""
WITHIN_S = 5.0
"""Of that, until the shard reads it, on a busy machine."""

SHARD = ShardId("ab" * 32, 0, dims={"user": 4})
BAGS = {"user": LookupBags(keys=np.zeros(1, dtype=np.uint64), lengths_LB=np.ones((1, 1), dtype=np.int32))}
Allowed = list[float]


@asynccontextmanager
async def overloaded_shard(allowed_s: Allowed) -> AsyncIterator[str]:
    """Yield the address of what keeps the seconds that each lookup leaves, and answers that it is overloaded."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.read(HEAD.size):
            kind, num_nets, shard, size_bytes, request = HEAD.unpack(head)
            frame = Frame(kind, num_nets, shard, request, memoryview(await reader.readexactly(size_bytes)))
            if kind == Kind.PING:
                writer.write(greeting_frame(bundle_id=SHARD.bundle_id, shard=SHARD.shard))
                continue
            allowed_s.append(read_request(frame).allowed_us * 1e-6)
            writer.write(error_frame(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "busy", request=request))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
        await asyncio.sleep(0.05)  # for the server to hear that its client is gone


async def told_s() -> Allowed:
    """Ask a shard twice, the second time with half the time that is left, and return what reached it."""
    allowed_s: Allowed = []
    async with overloaded_shard(allowed_s) as address:
        link = StreamLink(SHARD, address, tls=None, config=RankerConfig())
        deadline = Deadline.after(ALLOWED_S)
        for one in (deadline, deadline.share(0.5)):
            with suppress(OverloadedError):
                await link.lookup(ShardCall(bags=BAGS, deadline=one))
        await link.close()
    return allowed_s


def test_a_shard_is_told_the_time_that_is_left_of_the_requests() -> None:
    whole_s, half_s = asyncio.run(told_s())
    assert ALLOWED_S - WITHIN_S < whole_s <= ALLOWED_S
    assert ALLOWED_S / 2 - WITHIN_S < half_s <= ALLOWED_S / 2
