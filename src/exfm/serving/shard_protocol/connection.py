"""One end of a stream: reads and sends frames."""

import asyncio
import socket
from abc import abstractmethod
from collections.abc import Iterable
from typing import cast

import numpy as np

from exfm.serving.shard_protocol.frames import HEAD, Frame

STAGING_BYTES = 256 * 1024
"""Size of a read while a frame's size is unknown; asyncio reads no more at once."""

STEPS_BYTES = (32 * 1024, 128 * 1024)
"""A larger body's first buffers, before one of its full size: an empty buffer may take a huge page, 2 MiB."""


class Connection(asyncio.BufferedProtocol):
    """A stream of frames. Bodies are read into their own memory; only their first bytes are copied."""

    def __init__(self, *, max_body_bytes: int, staging: memoryview) -> None:
        """Take frames with bodies of at most `max_body_bytes`; larger bodies are skipped.

        Bytes are read into `staging`, which all connections of an event loop may share.
        """
        self._max_body_bytes = max_body_bytes
        self._staging = staging
        self._rest = b""
        self._head: tuple[int, int, int, int] | None = None
        self._body = memoryview(b"")
        self._size_bytes = self._filled = self._to_skip = 0

    @abstractmethod
    def take(self, frame: Frame) -> None:
        """Take a complete frame."""

    def refuse(self, frame: Frame, *, size_bytes: int) -> bool:
        """Take the head of a frame that is too large; return whether the connection stays open.

        By default it is closed; a subclass may send or raise an error to the caller that waits.
        """
        self.transport.abort()
        return False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; the argument is asyncio's."""
        self.transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does not set it for a socket that we made

    def send(self, parts: Iterable[bytes | memoryview]) -> None:
        """Send the parts of a frame."""
        self.transport.writelines([part for part in parts if part])  # TLS has no empty writes

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next bytes; the argument is asyncio's."""
        if self._head is not None:
            return self._body[self._filled :]
        self._staging[: len(self._rest)] = self._rest
        return self._staging[len(self._rest) :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that were read; the argument is asyncio's."""
        if self._head is not None:
            self._filled += nbytes
            self._go_on()
            return
        staged = len(self._rest) + nbytes
        at = self._skipped(0, staged)
        while self._head is None and staged - at >= HEAD.size:
            kind, num_nets, shard, size_bytes, request = HEAD.unpack_from(self._staging, at)
            at += HEAD.size
            if size_bytes > self._max_body_bytes:
                self._to_skip = size_bytes
                at = self._skipped(at, staged)
                refused = Frame(kind, num_nets, shard, request, body=memoryview(b""))
                if self.refuse(refused, size_bytes=size_bytes):
                    continue
                return
            self._head, self._size_bytes = (kind, num_nets, shard, request), size_bytes
            self._filled = min(size_bytes, staged - at)
            self._body = self._room()
            self._body[: self._filled] = self._staging[at : at + self._filled]
            at += self._filled
            self._go_on()
        self._rest = bytes(self._staging[at:staged])  # an incomplete head

    def _skipped(self, at: int, staged: int) -> int:
        """Return the position after the bytes of a skipped body, at most `staged`."""
        num_skipped = min(self._to_skip, staged - at)
        self._to_skip -= num_skipped
        return at + num_skipped

    def _go_on(self) -> None:
        """End the frame if its body is complete, or take a larger buffer if the first one is full."""
        if self._filled == self._size_bytes:
            assert self._head is not None, "a frame has a head"
            kind, num_nets, shard, request = self._head
            frame = Frame(kind=kind, num_nets=num_nets, shard=shard, request=request, body=self._body)
            self._head, self._body = None, memoryview(b"")
            self.take(frame)
        elif self._filled == len(self._body):
            first, self._body = self._body, self._room()
            self._body[: self._filled] = first

    def _room(self) -> memoryview:
        """Return the next buffer of a body, of the next step or of its full size."""
        step_bytes = next((step for step in STEPS_BYTES if step > self._filled), self._size_bytes)
        return _room_of(min(self._size_bytes, step_bytes))


def new_staging() -> memoryview:
    """Return a read buffer, which all connections of an event loop may share."""
    return _room_of(STAGING_BYTES)


def _room_of(size_bytes: int) -> memoryview:
    """Return uninitialized memory; the kernel backs a page only once it is written."""
    return np.empty(size_bytes, dtype=np.uint8).data
