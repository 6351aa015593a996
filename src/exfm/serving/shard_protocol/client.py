"""A ranker's connection to one server of a shard, with the requests that are under way on it."""

import asyncio
from typing import Any, Protocol

from exfm.errors import RequestError, VersionMismatchError
from exfm.serving.shard_protocol.connection import Connection
from exfm.serving.shard_protocol.frames import PING_FRAME, Frame, Kind, read_greeting
from exfm.serving.shard_protocol.shard_id import ShardId
from exfm.serving.tls import TlsFiles

Place = tuple[str, int]

SILENT_S = 3.0
"""Timeout of a ping's answer. Without it the server counts as lost: it hangs, or its machine is down."""


class Owner(Protocol):
    """The link that owns the connection."""

    shard: ShardId

    def on_goaway(self, connection: "ShardConnection") -> None:
        """The server sent GOAWAY: it takes no new request."""

    def on_lost(self, connection: "ShardConnection", problem: str) -> None:
        """The connection was closed."""


class ShardConnection(Connection):
    """A connection to one server of a shard."""

    def __init__(
        self, owner: Owner, place: Place, *, tls: TlsFiles | None, max_body_bytes: int, staging: memoryview
    ) -> None:
        super().__init__(max_body_bytes=max_body_bytes, staging=staging)
        self.place = place
        self.tls = tls
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._greeting: asyncio.Future[Frame] = self._loop.create_future()
        self._pinged_s: float | None = None
        self._closes_when_idle = False

    async def greet(self) -> None:
        """Return once the server has confirmed that it serves the owner's shard.

        A TCP connection alone is no proof: the kernel accepts connections for a process that hangs.

        Raises: ConnectionError if the connection is lost first, or the server sent GOAWAY; VersionMismatchError if it
        serves another shard or bundle.
        """
        self.transport.write(PING_FRAME)
        try:
            bundle_id, shard = read_greeting(await self._greeting)
            if (bundle_id, shard) != (self._owner.shard.bundle_id, self._owner.shard.shard):
                raise VersionMismatchError(
                    f"serves shard {shard} of bundle {bundle_id or 'unknown'}, but shard {self._owner.shard.shard} of "
                    f"{self._owner.shard.bundle_id} was requested"
                )
            if self._closes_when_idle:
                raise ConnectionResetError("the server is stopping")
        except BaseException:  # a timeout cancels
            self.transport.abort()
            raise

    async def send_request(self, frame: bytes, *, request: int, timeout_s: float) -> Frame:
        """Send a request's frame, and return the answer.

        Raises: TimeoutError; ConnectionError if the connection is lost first; RequestError if the answer is too large.
        """
        if self.transport.is_closing():
            raise ConnectionResetError("the connection was closed")
        future: asyncio.Future[Frame] = self._loop.create_future()
        self._waiting[request] = future
        self.transport.write(frame)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            if future.done() and not future.cancelled():  # the answer arrived in time, but this process was busy
                return future.result()
            raise
        finally:
            del self._waiting[request]
            self._close_if_idle()

    def check_alive(self) -> None:
        """Send a ping; close the connection if the last ping has no answer after SILENT_S."""
        if self._pinged_s is None:
            self._pinged_s = self._loop.time()
            self.transport.write(PING_FRAME)
        elif self._loop.time() - self._pinged_s > SILENT_S:
            self.transport.abort()

    def close_when_idle(self) -> None:
        """Close after the last answer."""
        self._closes_when_idle = True
        self._close_if_idle()

    def take(self, frame: Frame) -> None:
        """Take a frame of the server."""
        self._pinged_s = None
        if frame.kind == Kind.PING:
            if not self._greeting.done():
                self._greeting.set_result(frame)
        elif frame.kind == Kind.GOAWAY:
            self._closes_when_idle = True
            self._owner.on_goaway(self)
        else:
            future = self._waiting.get(frame.request)
            if future is not None and not future.done():  # else the caller no longer waits
                future.set_result(frame)

    def refuse(self, frame: Frame, *, size_bytes: int) -> bool:
        """Fail a lookup whose answer is too large. No other frame of a shard is large: others close the connection."""
        if frame.kind not in (Kind.ANSWER, Kind.TRACED_ANSWER, Kind.ERROR):
            return super().refuse(frame, size_bytes=size_bytes)
        self._pinged_s = None
        future = self._waiting.get(frame.request)
        if future is not None and not future.done():
            future.set_exception(
                RequestError(f"the answer takes {size_bytes} B; max_message_bytes is {self._max_body_bytes}")
            )
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the lookups that wait; the argument is asyncio's."""
        problem = str(exc or "the connection was closed")
        self._owner.on_lost(self, problem)
        waiting: list[asyncio.Future[Any]] = [self._greeting, *self._waiting.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(ConnectionResetError(problem))
        if self._greeting.done() and not self._greeting.cancelled():
            self._greeting.exception()  # marks the error as retrieved

    def _close_if_idle(self) -> None:
        if self._closes_when_idle and not self._waiting:
            self.transport.close()
