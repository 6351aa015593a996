"""A shard reached by streams: a connection to each of its servers, which take turns."""

import asyncio
from typing import Any

import grpc
import torch

from exfm.errors import RequestError, ServingError, ShardUnavailableError
from exfm.serving.call import Deadline
from exfm.serving.config import RankerConfig
from exfm.serving.ranker.link import NetBags, NetSums, ShardId, ShardLink
from exfm.serving.stream.connection import Connection
from exfm.serving.stream.frames import PING_FRAME, Frame, Kind, ask_frame, read_answer, read_error
from exfm.serving.stream.resolving import host_of, resolve
from exfm.serving.stream.tls import client_context
from exfm.serving.tls import TlsFiles

CONNECT_S = 2.0
"""Time for an attempt to connect before it is given up."""

SILENT_S = 3.0
"""Time without a word of a server, which is asked every 2 s, after which it counts as lost: 5 s at most, as by gRPC."""

_STATUSES = {code.value[0]: code for code in grpc.StatusCode}

Place = tuple[str, int]


class StreamLink(ShardLink):
    """One shard, by streams."""

    def __init__(self, shard: ShardId, address: str, *, tls: TlsFiles | None, config: RankerConfig) -> None:
        """Start to connect in the event loop that runs; it is not waited for. Without `tls`, nothing is encrypted."""
        super().__init__(shard, address)
        self._tls = tls
        self._config = config
        self._connections: dict[Place, _ClientConnection] = {}
        self._leaving: set[_ClientConnection] = set()
        self._turn = 0
        self._next_request = 0
        self._problem, self._retry_at_s = "no connection yet", 0.0
        self._connecting = asyncio.create_task(self._connect_all(anew=False))

    async def sums(self, bags: NetBags, *, deadline: Deadline) -> NetSums:
        """Return the shard's sums of these bags; raises as ShardLink's.

        A lookup changes nothing, so one that met a lost server is sent again to another, within its deadline.
        """
        for _ in range(self._config.lookup_attempts):
            connection = self._take_turn() or await self._connected(deadline)
            try:
                return await self._ask(connection, bags, deadline)
            except ConnectionError as error:
                problem = str(error)
        raise self.error(grpc.StatusCode.UNAVAILABLE, f"{problem}, {self._config.lookup_attempts} times", deadline)

    async def check_ready(self, *, deadline: Deadline) -> None:
        """Return if a server of the shard is connected; raises as ShardLink's. A server that listens has its tables."""
        if self._take_turn() is None:
            await self._connected(deadline)

    async def keep(self, tls: TlsFiles | None) -> None:
        """Connect to servers that are new or lost, leave those that are gone; and all anew for another certificate."""
        for connection in (*self._connections.values(), *self._leaving):
            connection.check_alive()
        anew, self._tls = tls != self._tls, tls
        await self._connect(anew=anew)

    async def close(self) -> None:
        """Close all connections; requests under way are broken off."""
        self._connecting.cancel()
        for connection in (*self._connections.values(), *self._leaving):
            connection.transport.abort()

    async def _ask(self, connection: "_ClientConnection", bags: NetBags, deadline: Deadline) -> NetSums:
        self._next_request += 1
        remaining_s = deadline.remaining_s()
        frame = ask_frame(
            bags, request=self._next_request, bundle_id=self.shard.bundle_id, allowed_us=int(remaining_s * 1e6)
        )
        try:
            answer = await connection.ask(frame, request=self._next_request, timeout_s=remaining_s)
        except TimeoutError as error:
            raise self.late(deadline) from error
        try:
            if answer.kind == Kind.ERROR:
                status, details = read_error(answer)
            else:
                bundle_id, sums = read_answer(answer)
        except RequestError as error:
            raise ServingError(f"{self} answered a malformed frame: {error}") from error
        if answer.kind == Kind.ERROR:  # not above: what a shard refuses may be a RequestError, too
            raise self.error(_STATUSES.get(status, grpc.StatusCode.UNKNOWN), details, deadline)
        tensors = {net: torch.from_numpy(of_net) for net, of_net in sums.items()}
        return self.check_sums(tensors, bags, bundle_id=bundle_id)

    def _take_turn(self) -> "_ClientConnection | None":
        usable = [one for one in self._connections.values() if not one.transport.is_closing()]
        self._turn += 1
        return usable[self._turn % len(usable)] if usable else None

    async def _connected(self, deadline: Deadline) -> "_ClientConnection":
        """Return a connection as soon as there is one.

        After a failure, the next attempt waits for its time; requests meanwhile fail at once.
        """
        if not self._connecting.done() or asyncio.get_running_loop().time() >= self._retry_at_s:
            try:
                async with asyncio.timeout(deadline.remaining_s()):
                    await self._connect(anew=False)
            except TimeoutError as error:
                raise self.late(deadline) from error
        connection = self._take_turn()
        if connection is None:
            raise self.error(grpc.StatusCode.UNAVAILABLE, self._problem, deadline)
        return connection

    async def _connect(self, *, anew: bool) -> None:
        """Return when an attempt to connect to all servers has ended; one at a time, which all wait for."""
        if self._connecting.done():
            self._connecting = asyncio.create_task(self._connect_all(anew=anew))
        await asyncio.shield(self._connecting)

    async def _connect_all(self, *, anew: bool) -> None:
        try:
            places = await resolve(self.address, timeout_s=CONNECT_S)
        except ShardUnavailableError as error:
            places = tuple(self._connections)  # DNS may be away for a while; servers that answer stay
            self._problem = str(error)
        for gone in self._connections.keys() - set(places):
            self._leave(gone)
        await asyncio.gather(*(self._open(place) for place in places if anew or place not in self._connections))
        if not self._connections:
            self._retry_at_s = asyncio.get_running_loop().time() + self._config.max_reconnect_backoff_ms * 1e-3

    async def _open(self, place: Place) -> None:
        context = client_context(self._tls) if self._tls is not None else None
        connection = _ClientConnection(self, place, max_body_bytes=self._config.max_message_bytes)
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, *place, ssl=context, server_hostname=host_of(self.address) if context else None
                )
                await connection.greet()  # the kernel connects for a server that hangs, too
        except OSError as error:  # ssl.SSLError and TimeoutError are some
            self._problem = f"{place[0]}:{place[1]}: {error or 'no answer'}"
            return
        if place in self._connections:
            self._leave(place)
        self._connections[place] = connection

    def _leave(self, place: Place) -> None:
        """Ask this server nothing more, and close its connection after the last answer."""
        connection = self._connections.pop(place)
        self._leaving.add(connection)
        connection.close_when_idle()

    def leave(self, connection: "_ClientConnection") -> None:
        """Ask a server nothing more that says it is leaving, and look for others."""
        if self._connections.get(connection.place) is connection:
            self._leave(connection.place)

    def lose(self, connection: "_ClientConnection", problem: str) -> None:
        """Forget a connection that is closed."""
        self._problem = f"{connection.place[0]}:{connection.place[1]}: {problem}"
        self._leaving.discard(connection)
        if self._connections.get(connection.place) is connection:
            del self._connections[connection.place]


class _ClientConnection(Connection):
    """A connection to one server, with the requests under way on it."""

    def __init__(self, link: StreamLink, place: Place, *, max_body_bytes: int) -> None:
        super().__init__(max_body_bytes=max_body_bytes)
        self.place = place
        self._link = link
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._closes_when_idle = False
        self._heard_s = asyncio.get_running_loop().time()
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def greet(self) -> None:
        """Return once the server has said something.

        Raises: ConnectionError if the connection is lost before.
        """
        self.transport.write(PING_FRAME)
        try:
            await self._greeted
        except BaseException:  # a timeout cancels
            self.transport.abort()
            raise

    async def ask(self, frame: bytes, *, request: int, timeout_s: float) -> Frame:
        """Return the answer to a frame.

        Raises: TimeoutError; ConnectionError if the connection is lost before.
        """
        if self.transport.is_closing():
            raise ConnectionResetError("the connection was closed")
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[request] = future
        self.transport.write(frame)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            del self._waiting[request]
            self._close_if_idle()

    def check_alive(self) -> None:
        """Ask whether the server is there, or break off if it has said nothing for long: it hangs."""
        if asyncio.get_running_loop().time() - self._heard_s > SILENT_S:
            self.transport.abort()
        else:
            self.transport.write(PING_FRAME)

    def close_when_idle(self) -> None:
        """Close after the last answer."""
        self._closes_when_idle = True
        self._close_if_idle()

    def take(self, frame: Frame) -> None:
        """Take a frame of the server."""
        self._heard_s = asyncio.get_running_loop().time()
        if not self._greeted.done():
            self._greeted.set_result(None)
        if frame.kind == Kind.LEAVING:
            self._link.leave(self)
            return
        future = self._waiting.get(frame.request)
        if future is not None and not future.done():  # else its asker has given up
            future.set_result(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell those who wait; the argument is asyncio's."""
        self._link.lose(self, str(exc or "the connection was closed"))
        waiting: list[asyncio.Future[Any]] = [self._greeted, *self._waiting.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(ConnectionResetError(str(exc or "the connection was closed")))

    def _close_if_idle(self) -> None:
        if self._closes_when_idle and not self._waiting:
            self.transport.close()
