"""How a ranker finds a shard's servers by streams when DNS or servers fail it; the servers here only greet."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
import uvloop
from dns_server import DnsServer

from exfm.errors import ShardUnavailableError, VersionMismatchError
from exfm.models.lookup import LookupBags
from exfm.serving.config import RankerConfig
from exfm.serving.ranker.shards.fan_out import lookup_all
from exfm.serving.ranker.shards.link import NetBags
from exfm.serving.ranker.shards.stream_link import StreamLink
from exfm.serving.requests.call import Deadline
from exfm.serving.shard_protocol.frames import HEAD, greeting_frame
from exfm.serving.shard_protocol.shard_id import ShardId

SHARD = ShardId("ab" * 32, 0, dims={"user": 4})
NAME = "shard-0.exfm"


class Greeter:
    """A server that says which bundle's it is, and its connections."""

    def __init__(self, bundle_id: str = SHARD.bundle_id) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.delay_s = 0.0
        self._greeting = greeting_frame(bundle_id=bundle_id, shard=SHARD.shard)

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
        """Serve there, and yield the port."""
        async with await asyncio.start_server(self._greet, host, port) as server:
            yield server.sockets[0].getsockname()[1]

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while await reader.read(HEAD.size):
            await asyncio.sleep(self.delay_s)
            writer.write(self._greeting)
        writer.close()


@asynccontextmanager
async def linked(address: str) -> AsyncIterator[StreamLink]:
    link = StreamLink(SHARD, address, tls=None, config=RankerConfig())
    try:
        yield link
    finally:
        await link.close()
        await asyncio.sleep(0.05)  # for the other end to hear of it


def test_a_known_server_is_found_again_while_dns_is_away(dns: DnsServer) -> None:
    async def lose_and_find() -> None:
        greeter = Greeter()
        dns.names = {NAME: ["127.0.0.1"]}
        async with greeter.serving() as port, linked(dns.address_of(NAME, port)) as link:
            await link.check_ready(deadline=Deadline.after(10))
            dns.is_silent = True
            greeter.writers.pop().close()
            while not greeter.writers:
                await asyncio.sleep(0.01)
                await link.check_ready(deadline=Deadline.after(10))
            await link.check_ready(deadline=Deadline.after(1))  # DNS is given 2 s

    asyncio.run(lose_and_find())


def test_a_server_that_dns_has_no_more_is_left_though_it_is_there_still(dns: DnsServer) -> None:
    async def lose_and_move() -> None:
        old, new = Greeter(), Greeter()
        dns.names = {NAME: ["127.0.0.1"]}
        async with (
            old.serving() as port,
            new.serving("127.0.0.2", port),
            linked(dns.address_of(NAME, port)) as link,
        ):
            await link.check_ready(deadline=Deadline.after(10))
            dns.names = {NAME: ["127.0.0.2"]}
            old.delay_s = 0.3  # DNS answers before
            old.writers.pop().close()
            while not (old.writers and new.writers):
                await asyncio.sleep(0.01)
                await link.check_ready(deadline=Deadline.after(10))
            while not old.writers[-1].is_closing():
                await asyncio.sleep(0.01)
            await link.check_ready(deadline=Deadline.after(10))
            assert not new.writers[-1].is_closing()

    asyncio.run(asyncio.wait_for(lose_and_move(), 30))


@pytest.mark.parametrize("is_one_away", [True, False])
def test_a_name_whose_servers_are_anothers_is_a_mismatch_unless_one_may_come_back(
    dns: DnsServer, is_one_away: bool
) -> None:
    async def ask() -> None:
        dns.names = {NAME: ["127.0.0.1", "127.0.0.2"] if is_one_away else ["127.0.0.1"]}
        async with Greeter("cd" * 32).serving() as port, linked(dns.address_of(NAME, port)) as link:
            await link.check_ready(deadline=Deadline.after(10))

    error = ShardUnavailableError if is_one_away else VersionMismatchError
    with pytest.raises(error, match=r"127\.0\.0\.2:" if is_one_away else "serves shard 0 of bundle cdcd"):
        asyncio.run(ask())


class Listener(threading.Thread):
    """A server with a thread of its own, as a shard has a process: it greets, and hears of what is sent after."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.has_heard = threading.Event()

    def run(self) -> None:
        with self._socket, self._socket.accept()[0] as peer:
            peer.recv(HEAD.size)
            peer.sendall(greeting_frame(bundle_id=SHARD.bundle_id, shard=SHARD.shard))
            if peer.recv(1):
                self.has_heard.set()


def test_a_lookup_has_left_the_ranker_before_it_computes_anything_else() -> None:
    async def ask() -> bool:
        link = StreamLink(SHARD, listener.address, tls=None, config=RankerConfig())
        await link.check_ready(deadline=Deadline.after(10))
        bags: NetBags = {"user": LookupBags(np.zeros(1, dtype=np.uint64), np.ones((1, 1), dtype=np.int32))}
        try:
            _, has_left = await lookup_all(
                [link],
                [bags],
                deadline=Deadline.after(1),
                meanwhile=lambda: listener.has_heard.wait(10),  # the event loop does nothing meanwhile
                may_miss=True,
            )
        finally:
            await link.close()
        return has_left

    listener = Listener()
    listener.start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as servers have
        assert runner.run(ask())
    listener.join(10)
