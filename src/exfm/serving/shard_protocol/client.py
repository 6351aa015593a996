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
"""Time for the answer to a ping, after which a server counts as lost: it hangs, or its machine is gone."""


class Owner(Protocol):
    """Who has the connection."""

    shard: ShardId

    def on_leaving(self, connection: "ShardConnection") -> None:
        """Hear that its server takes no new request."""

    def on_lost(self, connection: "ShardConnection", problem: str) -> None:
        """Hear that it is closed."""


class ShardConnection(Connection):
    """A connection to one server."""

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
        """Return once the server has said that it holds the owner's shard; the kernel connects for one that hangs, too.

        Raises: ConnectionError if the connection is lost before, or the server is leaving; VersionMismatchError if it
        holds another shard or bundle.
        """
        self.transport.write(PING_FRAME)
        try:
            bundle_id, shard = read_greeting(await self._greeting)
            if (bundle_id, shard) != (self._owner.shard.bundle_id, self._owner.shard.shard):
                raise VersionMismatchError(
                    f"serves shard {shard} of bundle {bundle_id or 'unknown'}, but shard {self._owner.shard.shard} of "
                    f"{self._owner.shard.bundle_id} is asked for"
                )
            if self._closes_when_idle:
                raise ConnectionResetError("the server is leaving")
        except BaseException:  # a timeout cancels
            self.transport.abort()
            raise

    async def ask(self, frame: bytes, *, request: int, timeout_s: float) -> Frame:
        """Return the answer to a frame.

        Raises: TimeoutError; ConnectionError if the connection is lost before; RequestError if the answer is too large.
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
            if future.done() and not future.cancelled():  # it came in time, but this process was busy
                return future.result()
            raise
        finally:
            del self._waiting[request]
            self._close_if_idle()

    def check_alive(self) -> None:
        """Ask whether the server is there, or break off if it did not answer the last time: it hangs."""
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
        elif frame.kind == Kind.LEAVING:
            self._closes_when_idle = True
            self._owner.on_leaving(self)
        else:
            future = self._waiting.get(frame.request)
            if future is not None and not future.done():  # else its asker has given up
                future.set_result(frame)

    def refuse(self, frame: Frame, *, size_bytes: int) -> bool:
        """Tell who waits for an answer that it is too large; what else is as large is of no shard."""
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
        """Tell those who wait; the argument is asyncio's."""
        problem = str(exc or "the connection was closed")
        self._owner.on_lost(self, problem)
        waiting: list[asyncio.Future[Any]] = [self._greeting, *self._waiting.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(ConnectionResetError(problem))
        if self._greeting.done() and not self._greeting.cancelled():
            self._greeting.exception()  # nobody may be waiting for it any more

    def _close_if_idle(self) -> None:
        if self._closes_when_idle and not self._waiting:
            self.transport.close()
