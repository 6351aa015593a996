"""A shard's server of the shard protocol.

The requests of a connection wait there and are answered in order.
"""

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from exfm.errors import ConfigError, LookupTooLargeError, OverloadedError, RequestError
from exfm.serving.config import ShardConfig
from exfm.serving.models.served_model import ServedModel
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import Profiler, timed
from exfm.serving.profiler.spans import read_trace_note, spanned
from exfm.serving.requests.call import Deadline
from exfm.serving.requests.status import failed_with, given_up
from exfm.serving.shard_protocol.connection import Connection, new_staging
from exfm.serving.shard_protocol.frames import (
    GOAWAY_FRAME,
    Frame,
    Kind,
    LookupRequest,
    Pooled,
    answer_frame,
    error_frame,
    greeting_frame,
    read_request,
    split_note,
    with_note,
)
from exfm.serving.tls import TlsFiles, TlsFolder, server_context

logger = logging.getLogger(__name__)

CHECK_S = 2.0
"""Pause between two checks of certificates and connections."""

Answer = Callable[[LookupRequest, Profiler | None], dict[Any, Pooled]]
"""Answers a request with each net's pooled embeddings, or raises; a profiler, if there is one, measures it."""


class StreamServer:
    """Accepts connections of rankers, and answers their requests in the event loop."""

    def __init__(
        self, model: ServedModel, answer: Answer, *, shard: int, config: ShardConfig, tls: TlsFolder | None
    ) -> None:
        """Serve one shard, the model; with `tls`, only clients with a certificate."""
        self.model = model
        self.answer = answer
        self.shard = shard
        self.connections = set[RankerConnection]()
        self.is_stopping = False
        self.files: TlsFiles | None = None
        """The certificate and the authorities in use now, if any."""
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


class RankerConnection(Connection):
    """A ranker's connection. Its requests wait while another is answered, and while the ranker reads no answer."""

    def __init__(
        self, server: StreamServer, files: TlsFiles | None, *, max_body_bytes: int, staging: memoryview
    ) -> None:
        """Serve a connection that was accepted under the certificates in `files`, if any."""
        super().__init__(max_body_bytes=max_body_bytes, staging=staging)
        self.files = files
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._requests: deque[tuple[Frame, int]] = deque()
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection; the argument is asyncio's."""
        super().connection_made(transport)
        self._heard_s = self._loop.time()  # the handshake has its own timeout
        self._server.connections.add(self)
        is_old = self.files != self._server.files  # the certificate changed during the handshake
        if is_old or self._server.is_stopping:
            self.send([GOAWAY_FRAME])

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection and its waiting requests; the argument is asyncio's."""
        self._server.connections.discard(self)
        for _ in self._requests:
            self._server.model.admission.release()
            given_up()
        self._requests.clear()

    def pause_writing(self) -> None:
        """Stop reading and answering until the ranker has read its answers."""
        self._is_paused = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read and answer again."""
        self._is_paused = False
        self.transport.resume_reading()
        self._loop.call_soon(self._answer_next)

    def check_heard(self, *, within_s: float) -> None:
        """Close the connection if no frame came for `within_s`: rankers ping every few seconds."""
        if self._loop.time() - self._heard_s > within_s:
            self.transport.abort()

    def take(self, frame: Frame) -> None:
        """Take a frame of the ranker."""
        self._heard_s = self._loop.time()
        if frame.kind == Kind.PING:
            self.send([greeting_frame(bundle_id=self._server.model.bundle_id, shard=self._server.shard)])
            return
        try:
            self._server.model.admission.take()
        except OverloadedError as error:
            self.send([_error(error, frame)])
            return
        self._requests.append((frame, time.perf_counter_ns()))
        if len(self._requests) == 1:
            self._loop.call_soon(self._answer_next)

    def refuse(self, frame: Frame, *, size_bytes: int) -> bool:
        """Refuse a request that is too large. No other frame of a ranker is large, so others close the connection."""
        if frame.kind not in (Kind.REQUEST, Kind.TRACED_REQUEST):
            return super().refuse(frame, size_bytes=size_bytes)
        error = LookupTooLargeError(
            f"the request takes {size_bytes} B; max_message_bytes is {self._max_body_bytes}: send it in parts"
        )
        self.send([_error(error, frame)])
        return True

    def _answer_next(self) -> None:
        """Answer one request; other connections get their turn before the next."""
        if self._is_paused or not self._requests:
            return
        frame, came_ns = self._requests.popleft()
        self._server.model.admission.release()
        self.send(self._answer(frame, came_ns))
        if self._requests and not self._is_paused:
            self._loop.call_soon(self._answer_next)

    def _answer(self, frame: Frame, came_ns: int) -> list[bytes | memoryview]:
        try:
            if frame.kind == Kind.REQUEST:
                return self._answer_plain(frame, came_ns, None)
            if frame.kind != Kind.TRACED_REQUEST:
                raise RequestError(
                    f"the frame is of kind {frame.kind}, expected {Kind.REQUEST} or {Kind.TRACED_REQUEST}"
                )
            profiler = Profiler.since(came_ns)
            plain, note = split_note(frame)
            with spanned(self._server.model.spans, profiler, is_reported=True, headers=read_trace_note(note)):
                parts = self._answer_plain(plain, came_ns, profiler)
            return with_note(parts, profiler.read().to_json().encode())
        except Exception as error:  # whatever it is, the ranker waits for an answer
            return [_error(error, frame)]

    def _answer_plain(self, frame: Frame, came_ns: int, profiler: Profiler | None) -> list[bytes | memoryview]:
        with timed(profiler, Layer.DESERIALIZE):
            request = read_request(frame)
        allowed_s = request.allowed_us * 1e-6
        deadline = Deadline(at_s=came_ns * 1e-9 + allowed_s, allowed_ms=allowed_s * 1e3)
        deadline.check("other requests were answered first")
        pooled = self._server.answer(request, profiler)
        with timed(profiler, Layer.SERIALIZE):
            parts = answer_frame(pooled, request=frame.request, bundle_id=self._server.model.bundle_id)
        self._server.model.seconds.observe((time.perf_counter_ns() - came_ns) * 1e-9)
        return parts


def _error(error: Exception, frame: Frame) -> bytes:
    status, message = failed_with(error)
    return error_frame(status.grpc.value[0], message, request=frame.request)
