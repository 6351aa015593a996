"""A shard's door for streams."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from exfm.errors import ConfigError, RequestError
from exfm.serving.config import ShardConfig
from exfm.serving.status import message_of, status_of
from exfm.serving.stream.connection import Connection
from exfm.serving.stream.frames import (
    LEAVING_FRAME,
    PING_FRAME,
    Ask,
    Frame,
    Kind,
    Sums,
    answer_frame,
    error_frame,
    read_ask,
)
from exfm.serving.stream.tls import server_context
from exfm.serving.tls import TlsFiles, TlsFolder

logger = logging.getLogger(__name__)

Answer = Callable[[Ask], dict[Any, Sums]]
"""What a shard answers: the sums of each net, or an error raised."""

CHECK_S = 2.0
"""Pause between two looks at the certificates."""


class StreamDoor:
    """Listens for rankers, and answers what they ask; requests are answered in the event loop, in order."""

    def __init__(self, answer: Answer, *, bundle_id: str, config: ShardConfig, tls: TlsFolder | None) -> None:
        """Answer for a bundle; with `tls`, clients with a certificate only."""
        self._answer = answer
        self._bundle_id = bundle_id
        self._config = config
        self._tls = tls
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._files: TlsFiles | None = None
        self._connections: set[_ServerConnection] = set()

    async def start(self) -> int:
        """Start to serve, and return the port.

        Raises: ConfigError if the address cannot be had.
        """
        address = (self._config.host, self._config.stream_port)
        try:
            family = socket.AF_INET6 if ":" in self._config.host else socket.AF_INET
            self._socket = socket.create_server(address, family=family, backlog=128)
        except OSError as error:
            raise ConfigError(
                f"the stream port {address[1]} of {address[0]} cannot be had ({error.strerror}); is another server "
                "there?"
            ) from error
        self._files = self._tls.files() if self._tls is not None else None
        self._server = await self._listen()
        port: int = self._socket.getsockname()[1]
        return port

    async def keep(self) -> None:
        """Take up certificates that were replaced, until cancelled; connections that there are stay."""
        while self._tls is not None:
            await asyncio.sleep(CHECK_S)
            files = self._tls.files()
            if files != self._files:
                self._files = files
                before, self._server = self._server, await self._listen()
                if before is not None:
                    before.close()

    async def stop(self) -> None:
        """Take no new request, and close each connection after its last answer."""
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.close()
        for connection in self._connections:
            connection.send([LEAVING_FRAME])
        give_up_s = asyncio.get_running_loop().time() + self._config.drain_s
        while self._connections and asyncio.get_running_loop().time() < give_up_s:
            await asyncio.sleep(0.02)
        for connection in list(self._connections):
            connection.transport.abort()

    async def _listen(self) -> asyncio.Server:
        """Return a server on the door's socket; two may be there for a moment, so that none is refused."""
        assert self._socket is not None, "it was started"
        return await asyncio.get_running_loop().create_server(
            self._connect, sock=self._socket.dup(), ssl=server_context(self._files) if self._files else None
        )

    def _connect(self) -> "_ServerConnection":
        return _ServerConnection(
            self._answer,
            bundle_id=self._bundle_id,
            connections=self._connections,
            max_body_bytes=self._config.max_message_bytes,
        )


class _ServerConnection(Connection):
    """A ranker's connection."""

    def __init__(
        self, answer: Answer, *, bundle_id: str, connections: set["_ServerConnection"], max_body_bytes: int
    ) -> None:
        super().__init__(max_body_bytes=max_body_bytes)
        self._answer = answer
        self._bundle_id = bundle_id
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count as connected; the argument is asyncio's."""
        super().connection_made(transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count as connected no more; the argument is asyncio's."""
        self._connections.discard(self)

    def take(self, frame: Frame) -> None:
        """Answer a frame."""
        if frame.kind == Kind.PING:
            self.send([PING_FRAME])
            return
        try:
            if frame.kind != Kind.ASK:
                raise RequestError(f"a frame of kind {frame.kind}, expected {Kind.ASK}")
            sums = self._answer(read_ask(frame))
        except Exception as error:  # whatever it is, the ranker must hear of it: it waits
            self.send([error_frame(status_of(error).grpc.value[0], message_of(error), request=frame.request)])
            return
        self.send(answer_frame(sums, request=frame.request, bundle_id=self._bundle_id))
