"""A shard's server of the shard protocol."""

import asyncio
import logging
import socket

from exfm.errors import ConfigError
from exfm.serving.config import ShardConfig
from exfm.serving.profiler.spans import Spans
from exfm.serving.requests.admission import Admission
from exfm.serving.requests.latency import RequestSeconds
from exfm.serving.shard_protocol.connection import new_staging
from exfm.serving.shard_protocol.frames import GOAWAY_FRAME
from exfm.serving.shard_protocol.ranker_connection import Answer, RankerConnection
from exfm.serving.shard_protocol.tls import server_context
from exfm.serving.tls import TlsFiles, TlsFolder

logger = logging.getLogger(__name__)

CHECK_S = 2.0
"""Pause between two checks of certificates and connections."""


class StreamServer:
    """Accepts connections of rankers, and answers their requests in the event loop."""

    def __init__(
        self,
        answer: Answer,
        *,
        bundle_id: str,
        shard: int,
        admission: Admission,
        seconds: RequestSeconds,
        spans: Spans | None,
        config: ShardConfig,
        tls: TlsFolder | None,
    ) -> None:
        """Serve one shard of a bundle; with `tls`, only clients with a certificate."""
        self.spans = spans
        self.answer = answer
        self.bundle_id = bundle_id
        self.shard = shard
        self.admission = admission
        self.seconds = seconds
        self.connections: set[RankerConnection] = set()
        self.is_stopping = False
        self.files: TlsFiles | None = None
        self._config = config
        self._tls = tls
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._taken_up_s = 0.0
        self._complaint = ""
        self._staging = new_staging()

    async def start(self) -> int:
        """Start to serve, and return the port.

        Raises: ConfigError if the address is not free.
        """
        address = (self._config.listen.host, self._config.listen.stream_port)
        try:
            family = socket.AF_INET6 if ":" in self._config.listen.host else socket.AF_INET
            self._socket = socket.create_server(address, family=family, backlog=128)
        except OSError as error:
            raise ConfigError(
                f"cannot listen for streams on {address[0]}:{address[1]} ({error.strerror}); is another server there?"
            ) from error
        self.files = self._tls.files() if self._tls is not None else None
        self._server = await self._listen(self.files)
        port: int = self._socket.getsockname()[1]
        return port

    async def keep(self) -> None:
        """Close silent connections, and load replaced certificates, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            for connection in list(self.connections):
                connection.check_heard(within_s=self._config.deadlines.stream_silence_s)
            if self._tls is None:
                continue
            try:
                await self._take_up(self._tls.files())
                self._complaint = ""
            except OSError as error:  # such as no free file descriptor; the next check tries again
                if str(error) != self._complaint:
                    logger.error("the new certificate cannot be used; the old one stays in use: %s", error)
                self._complaint = str(error)
            self._close_old()

    async def _take_up(self, files: TlsFiles) -> None:
        """Use another certificate from now on; rankers reconnect."""
        if files == self.files:
            return
        before, self._server = self._server, await self._listen(files)
        self.files, self._taken_up_s = files, asyncio.get_running_loop().time()
        if before is not None:
            before.close()
        self._send_goaway()

    def _close_old(self) -> None:
        """Close the connections that still use an old certificate: its authority may be revoked."""
        if asyncio.get_running_loop().time() - self._taken_up_s > self._config.shutdown.drain_s:
            for connection in list(self.connections):
                if connection.files != self.files:
                    connection.transport.abort()

    async def stop(self) -> None:
        """Take no new request, and close each connection after its last answer."""
        self.is_stopping = True
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.close()
        self._send_goaway()
        give_up_s = asyncio.get_running_loop().time() + self._config.shutdown.drain_s
        while self.connections and asyncio.get_running_loop().time() < give_up_s:
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.transport.abort()

    def _send_goaway(self) -> None:
        for connection in self.connections:
            connection.send([GOAWAY_FRAME])

    async def _listen(self, files: TlsFiles | None) -> asyncio.Server:
        """Return a server on the listening socket. While certificates change two listen, so no client is refused."""
        assert self._socket is not None, "it was started"
        max_body_bytes = self._config.limits.max_message_bytes
        return await asyncio.get_running_loop().create_server(
            lambda: RankerConnection(self, files, max_body_bytes=max_body_bytes, staging=self._staging),
            sock=self._socket.dup(),
            ssl=server_context(files) if files else None,
            ssl_handshake_timeout=self._config.deadlines.stream_silence_s if files else None,
        )
