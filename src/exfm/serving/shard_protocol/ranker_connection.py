"""The shard's end of a ranker's connection: requests wait here and are answered in order."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from exfm.errors import LookupTooLargeError, OverloadedError, RequestError
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import Profiler, timed
from exfm.serving.profiler.spans import Spans, read_trace_note, spanned
from exfm.serving.requests.admission import Admission
from exfm.serving.requests.call import Deadline
from exfm.serving.requests.latency import RequestSeconds
from exfm.serving.requests.status import failed_with, given_up
from exfm.serving.shard_protocol.connection import Connection
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
from exfm.serving.tls import TlsFiles

Answer = Callable[[LookupRequest, Profiler | None], dict[Any, Pooled]]
"""Answers a request with each net's pooled embeddings, or raises; a profiler, if there is one, measures it."""


class Owner(Protocol):
    """The server that accepted the connection."""

    answer: Answer
    bundle_id: str
    shard: int
    admission: Admission
    seconds: RequestSeconds
    spans: Spans | None
    connections: "set[RankerConnection]"
    is_stopping: bool
    files: TlsFiles | None
    """The certificate and the authorities in use now, if any."""


class RankerConnection(Connection):
    """A ranker's connection. Its requests wait while another is answered, and while the ranker reads no answer."""

    def __init__(self, server: Owner, files: TlsFiles | None, *, max_body_bytes: int, staging: memoryview) -> None:
        """Serve a connection that was accepted under the certificates in `files`."""
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
        if (
            self._server.is_stopping or self.files != self._server.files
        ):  # the certificate may have changed during the handshake
            self.send([GOAWAY_FRAME])

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection and its waiting requests; the argument is asyncio's."""
        self._server.connections.discard(self)
        for _ in self._requests:
            self._server.admission.release()
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
            self.send([greeting_frame(bundle_id=self._server.bundle_id, shard=self._server.shard)])
            return
        try:
            self._server.admission.take()
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
            f"the request takes {size_bytes} B; max_message_bytes is {self._max_body_bytes}: ask in parts"
        )
        self.send([_error(error, frame)])
        return True

    def _answer_next(self) -> None:
        """Answer one request; other connections get their turn before the next."""
        if self._is_paused or not self._requests:
            return
        frame, came_ns = self._requests.popleft()
        self._server.admission.release()
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
            with spanned(self._server.spans, profiler, headers=partial(read_trace_note, note)):
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
            parts = answer_frame(pooled, request=frame.request, bundle_id=self._server.bundle_id)
        self._server.seconds.answered(came_s=came_ns * 1e-9)
        return parts


def _error(error: Exception, frame: Frame) -> bytes:
    status, message = failed_with(error)
    return error_frame(status.grpc.value[0], message, request=frame.request)
