"""A ranker's connection to a shard: what it asks waits here, is answered, and goes back."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from exfm.errors import LookupTooLargeError, OverloadedError, RequestError
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import Stopwatch, timed
from exfm.serving.profiler.spans import Spans, read_trace_note, spanned
from exfm.serving.requests.admission import Admission
from exfm.serving.requests.call import Deadline
from exfm.serving.requests.latency import RequestSeconds
from exfm.serving.requests.status import failed_with, given_up
from exfm.serving.shard_protocol.connection import Connection
from exfm.serving.shard_protocol.frames import (
    LEAVING_FRAME,
    Ask,
    Frame,
    Kind,
    Sums,
    answer_frame,
    error_frame,
    greeting_frame,
    read_ask,
    split_note,
    with_note,
)
from exfm.serving.tls import TlsFiles

Answer = Callable[[Ask, Stopwatch | None], dict[Any, Sums]]
"""What a shard answers: the sums of each net, or an error raised; its time is taken if need be."""


class Door(Protocol):
    """Where the connection was made, and who answers there."""

    answer: Answer
    bundle_id: str
    shard: int
    admission: Admission
    seconds: RequestSeconds
    spans: Spans | None
    connections: "set[RankerConnection]"
    is_leaving: bool
    files: TlsFiles | None
    """The certificate and the authorities in use now, if any."""


class RankerConnection(Connection):
    """A ranker's connection. Its requests wait while another is answered, and while the ranker reads no answer."""

    def __init__(self, door: Door, files: TlsFiles | None, *, max_body_bytes: int, staging: memoryview) -> None:
        """Answer by a door; it was made under these certificates."""
        super().__init__(max_body_bytes=max_body_bytes, staging=staging)
        self.files = files
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._asked: deque[tuple[Frame, int]] = deque()
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count as connected; the argument is asyncio's."""
        super().connection_made(transport)
        self._heard_s = self._loop.time()  # its handshake had a time of its own
        self._door.connections.add(self)
        if self._door.is_leaving or self.files != self._door.files:  # its handshake took until now
            self.send([LEAVING_FRAME])

    def connection_lost(self, exc: Exception | None) -> None:
        """Count as connected no more; the argument is asyncio's."""
        self._door.connections.discard(self)
        for _ in self._asked:
            self._door.admission.release()
            given_up()
        self._asked.clear()

    def pause_writing(self) -> None:
        """Answer and read nothing more until the ranker has read what was answered."""
        self._is_paused = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._is_paused = False
        self.transport.resume_reading()
        self._loop.call_soon(self._answer_next)

    def check_heard(self, *, within_s: float) -> None:
        """Break off if no whole frame came for so long: rankers ping all the time."""
        if self._loop.time() - self._heard_s > within_s:
            self.transport.abort()

    def take(self, frame: Frame) -> None:
        """Take a frame of the ranker."""
        self._heard_s = self._loop.time()
        if frame.kind == Kind.PING:
            self.send([greeting_frame(bundle_id=self._door.bundle_id, shard=self._door.shard)])
            return
        try:
            self._door.admission.take()
        except OverloadedError as error:
            self.send([_error(error, frame)])
            return
        self._asked.append((frame, time.perf_counter_ns()))
        if len(self._asked) == 1:
            self._loop.call_soon(self._answer_next)

    def refuse(self, frame: Frame, *, size_bytes: int) -> bool:
        """Refuse a request that is too large; what else is as large is of no ranker, and breaks the connection."""
        if frame.kind not in (Kind.ASK, Kind.TRACED_ASK):
            return super().refuse(frame, size_bytes=size_bytes)
        error = LookupTooLargeError(
            f"the request takes {size_bytes} B; max_message_bytes is {self._max_body_bytes}: ask in parts"
        )
        self.send([_error(error, frame)])
        return True

    def _answer_next(self) -> None:
        """Answer one request; others of this server get their turn before the next."""
        if self._is_paused or not self._asked:
            return
        frame, came_ns = self._asked.popleft()
        self._door.admission.release()
        self.send(self._answer(frame, came_ns))
        if self._asked and not self._is_paused:
            self._loop.call_soon(self._answer_next)

    def _answer(self, frame: Frame, came_ns: int) -> list[bytes | memoryview]:
        try:
            if frame.kind == Kind.ASK:
                return self._answer_plain(frame, came_ns, None)
            if frame.kind != Kind.TRACED_ASK:
                raise RequestError(f"a frame of kind {frame.kind}, expected {Kind.ASK} or {Kind.TRACED_ASK}")
            stopwatch = Stopwatch.since(came_ns)
            plain, note = split_note(frame)
            with spanned(self._door.spans, stopwatch, headers=partial(read_trace_note, note)):
                parts = self._answer_plain(plain, came_ns, stopwatch)
            return with_note(parts, stopwatch.read().to_json().encode())
        except Exception as error:  # whatever it is, the ranker must hear of it: it waits
            return [_error(error, frame)]

    def _answer_plain(self, frame: Frame, came_ns: int, stopwatch: Stopwatch | None) -> list[bytes | memoryview]:
        with timed(stopwatch, Layer.DESERIALIZE):
            ask = read_ask(frame)
        allowed_s = ask.allowed_us * 1e-6
        deadline = Deadline(at_s=came_ns * 1e-9 + allowed_s, allowed_ms=allowed_s * 1e3)
        deadline.check("others were answered before this request")
        sums = self._door.answer(ask, stopwatch)
        with timed(stopwatch, Layer.SERIALIZE):
            parts = answer_frame(sums, request=frame.request, bundle_id=self._door.bundle_id)
        self._door.seconds.answered(came_s=came_ns * 1e-9)
        return parts


def _error(error: Exception, frame: Frame) -> bytes:
    status, message = failed_with(error)
    return error_frame(status.grpc.value[0], message, request=frame.request)
