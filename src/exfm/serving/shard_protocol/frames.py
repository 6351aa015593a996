"""The shard protocol's codec: the frames between a ranker and a shard.

A frame is a head of 16 bytes and a body; numbers are little-endian, and every array starts on 8 bytes.

    head       kind u8, nets u8, number of the shard u16, size of the body u32, number of the request u64
    REQUEST    bundle id (32 bytes), time allowed in microseconds u64, then for each net its sizes: net u32, lookups L
               u32, rows B u32, keys K u32; then for each net keys u64 [K] and lengths i32 [L, B], padded. If 256 is
               added to the net's number, the request leaves out some of the shard's lookups, and the positions of its
               L lookups follow: i32 [L], padded
    ANSWER     bundle id (32 bytes), then for each net its sizes: net u32, bytes of a number u32 (4 or 2), rows B
               u32, dims E u32; then for each net pooled embeddings f32 or f16 [B, E], padded
    ERROR      gRPC's status code u32, then a message in UTF-8
    GOAWAY     nothing: the server takes no new request on this connection, and closes it after the last answer
    PING       nothing, or in a server's answer its bundle id (32 bytes)
    TRACED_    as REQUEST, then a note and its size u32: the trace that the request is part of (W3C's traceparent and
    REQUEST    tracestate, a line each), or nothing
    TRACED_    as ANSWER, then a note and its size u32: where the time went at the shard, as JSON
    ANSWER     (exfm.serving.profiler.breakdown)

A REQUEST has the number of the shard that it is for, a server's PING the number of its shard.

Keys, lengths and pooled embeddings are those of exfm.serving.shard.oip_lookups.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from exfm.artifact.rows import Keys
from exfm.errors import RequestError
from exfm.models.lookup import LookupBags
from exfm.schema import NETS, Net
from exfm.serving.oip.tensors import raw_view

Lengths = npt.NDArray[np.int32]
Pooled = npt.NDArray[np.float32] | npt.NDArray[np.float16]
"""Shape [B, E]."""

HEAD = struct.Struct("<BBHIQ")
_POOLED_TYPES = {4: "<f4", 2: "<f2"}
_SIZES = struct.Struct("<IIII")
_NOTE_SIZE = struct.Struct("<I")
_SOME = 256
"""Added to a net's number if some of its lookups are left out."""
_ID_BYTES = 32
_REQUEST_BYTES = _ID_BYTES + 8
_STATUS_BYTES = 4


class Kind(IntEnum):
    """The kind of a frame."""

    REQUEST = 1
    ANSWER = 2
    ERROR = 3
    GOAWAY = 4
    PING = 5
    TRACED_REQUEST = 6
    TRACED_ANSWER = 7


_TRACED: dict[int, Kind] = {Kind.REQUEST: Kind.TRACED_REQUEST, Kind.ANSWER: Kind.TRACED_ANSWER}
_PLAIN: dict[int, int] = {traced: plain for plain, traced in _TRACED.items()}


@dataclass(frozen=True)
class Frame:
    """A received frame."""

    kind: int
    num_nets: int
    shard: int
    request: int
    body: memoryview


@dataclass(frozen=True)
class LookupRequest:
    """A ranker's request to a shard."""

    shard: int
    bundle_id: str
    allowed_us: int
    keys: Mapping[Net, Keys]
    """The keys of the first lookup's bags, row after row, then of the next lookup's."""
    lengths: Mapping[Net, Lengths]
    """Keys of each lookup's bags; shape [L, B]."""
    lookups: Mapping[Net, Lengths]
    """The positions of these lookups among the shard's, [L], for a net of which some are left out."""


def request_frame(
    bags: Mapping[Net, LookupBags], *, request: int, shard: int, bundle_id: str, allowed_us: int
) -> bytes:
    """Return the frame of a shard's lookup of these bags."""
    sizes, arrays = b"", []
    for net, of_net in bags.items():
        number = NETS.index(net) + (0 if of_net.only is None else _SOME)
        sizes += _SIZES.pack(number, *of_net.lengths_LB.shape, len(of_net.keys))
        arrays.append(of_net.keys.astype("<u8", copy=False).tobytes())
        arrays.append(_padded(of_net.lengths_LB.astype("<i4", copy=False).tobytes()))
        if of_net.only is not None:
            arrays.append(_padded(struct.pack(f"<{len(of_net.only)}i", *of_net.only)))
    body = [bytes.fromhex(bundle_id), struct.pack("<Q", allowed_us), sizes, *arrays]
    return b"".join([HEAD.pack(Kind.REQUEST, len(bags), shard, sum(map(len, body)), request), *body])


def read_request(frame: Frame) -> LookupRequest:
    """Return the content of a REQUEST frame; its arrays are views of the frame.

    Raises: RequestError if its sizes contradict each other.
    """
    body, keys, lengths, lookups = frame.body, {}, {}, {}
    sizes, at = _sizes_of(frame, after=_REQUEST_BYTES, may_be_some=True)
    for net, is_some, num_lookups, num_rows, num_keys in sizes:
        keys[net] = _array(body, at, num_keys, "<u8").astype(np.uint64, copy=False)
        at += 8 * num_keys
        num_lengths = num_lookups * num_rows
        lengths[net] = _array(body, at, num_lengths, "<i4").astype(np.int32, copy=False).reshape(num_lookups, num_rows)
        at += _padded_size(4 * num_lengths)
        if is_some:
            lookups[net] = _array(body, at, num_lookups, "<i4").astype(np.int32, copy=False)
            at += _padded_size(4 * num_lookups)
    _check_end(body, at)
    (allowed_us,) = struct.unpack_from("<Q", body, _ID_BYTES)
    return LookupRequest(frame.shard, _id_of(body), allowed_us=allowed_us, keys=keys, lengths=lengths, lookups=lookups)


def answer_frame(pooled: Mapping[Net, Pooled], *, request: int, bundle_id: str) -> list[bytes | memoryview]:
    """Return the parts of an answer's frame, without copying pooled embeddings."""
    sizes, parts = b"", list[bytes | memoryview]()
    for net, of_net in pooled.items():
        sizes += _SIZES.pack(NETS.index(net), of_net.itemsize, *of_net.shape)
        raw = raw_view(of_net)
        parts += [raw, bytes(_padded_size(len(raw)) - len(raw))]
    first = bytes.fromhex(bundle_id) + sizes
    return [HEAD.pack(Kind.ANSWER, len(pooled), 0, len(first) + sum(map(len, parts)), request) + first, *parts]


def read_answer(frame: Frame) -> tuple[str, dict[Net, Pooled]]:
    """Return an ANSWER frame's bundle id, and each net's pooled embeddings [B, E], views of the frame.

    Raises: RequestError if its sizes contradict each other.
    """
    body, pooled = frame.body, dict[Net, Pooled]()
    sizes, at = _sizes_of(frame, after=_ID_BYTES)
    for net, _, item_bytes, num_rows, num_dims in sizes:
        if item_bytes not in _POOLED_TYPES:
            raise RequestError(f"pooled embeddings have {item_bytes} B a number, expected one of {list(_POOLED_TYPES)}")
        of_net: Any = _array(body, at, num_rows * num_dims, _POOLED_TYPES[item_bytes])
        of_net = of_net.astype(of_net.dtype.newbyteorder("="), copy=False)
        pooled[net] = of_net.reshape(num_rows, num_dims)
        at += _padded_size(item_bytes * num_rows * num_dims)
    _check_end(body, at)
    return _id_of(body), pooled


def with_note(parts: Sequence[bytes | memoryview], note: bytes) -> list[bytes | memoryview]:
    """Return the traced form of a REQUEST or an ANSWER, whose first part has the whole head."""
    kind, num_nets, shard, size_bytes, request = HEAD.unpack_from(parts[0])
    head = HEAD.pack(_TRACED[kind], num_nets, shard, size_bytes + len(note) + _NOTE_SIZE.size, request)
    return [head + parts[0][HEAD.size :], *parts[1:], note + _NOTE_SIZE.pack(len(note))]


def split_note(frame: Frame) -> tuple[Frame, bytes]:
    """Return the plain form of a TRACED_REQUEST or a TRACED_ANSWER, and its note.

    Raises: RequestError if the note is longer than the frame.
    """
    end = len(frame.body) - _NOTE_SIZE.size
    (size_bytes,) = _NOTE_SIZE.unpack_from(frame.body, end) if end >= 0 else (0,)
    if size_bytes > end:
        raise RequestError(f"a frame of {len(frame.body)} B with a note of {size_bytes} B")
    body, note = frame.body[: end - size_bytes], bytes(frame.body[end - size_bytes : end])
    return replace(frame, kind=_PLAIN[frame.kind], body=body), note


def error_frame(status: int, message: str, *, request: int) -> bytes:
    """Return the frame of an error, with gRPC's number of its status."""
    body = struct.pack("<I", status) + message.encode()
    return HEAD.pack(Kind.ERROR, 0, 0, len(body), request) + body


def read_error(frame: Frame) -> tuple[int, str]:
    """Return the status and the message of an ERROR frame.

    Raises: RequestError if it is too short.
    """
    if len(frame.body) < _STATUS_BYTES:
        raise RequestError(f"an error of {len(frame.body)} B, expected {_STATUS_BYTES} B at least")
    (status,) = struct.unpack_from("<I", frame.body)
    return status, bytes(frame.body[_STATUS_BYTES:]).decode(errors="replace")


GOAWAY_FRAME = HEAD.pack(Kind.GOAWAY, 0, 0, 0, 0)
PING_FRAME = HEAD.pack(Kind.PING, 0, 0, 0, 0)


def greeting_frame(*, bundle_id: str, shard: int) -> bytes:
    """Return the frame of a server's answer to a PING."""
    return HEAD.pack(Kind.PING, 0, shard, _ID_BYTES, 0) + bytes.fromhex(bundle_id)


def read_greeting(frame: Frame) -> tuple[str, int]:
    """Return the bundle id and the shard in a server's answer to a PING; the id is empty if the answer has none."""
    return (_id_of(frame.body) if len(frame.body) == _ID_BYTES else ""), frame.shard


def _sizes_of(
    frame: Frame, *, after: int, may_be_some: bool = False
) -> tuple[list[tuple[Net, bool, int, int, int]], int]:
    end = after + frame.num_nets * _SIZES.size
    if len(frame.body) < end:
        raise RequestError(f"a frame of {len(frame.body)} B, expected {end} B at least for {frame.num_nets} nets")
    sizes: list[tuple[Net, bool, int, int, int]] = []
    for index in range(frame.num_nets):
        number, *counts = _SIZES.unpack_from(frame.body, after + index * _SIZES.size)
        is_some = may_be_some and number >= _SOME
        number -= _SOME * is_some
        if number >= len(NETS) or any(net == NETS[number] for net, *_ in sizes):
            raise RequestError(f"net {number} in a frame is unknown or given twice; expected 0 to {len(NETS) - 1}")
        sizes.append((NETS[number], is_some, *counts))
    return sizes, end


def _array(body: memoryview, at: int, count: int, dtype: str) -> npt.NDArray[np.generic]:
    if at + count * np.dtype(dtype).itemsize > len(body):
        raise RequestError(f"a frame of {len(body)} B is too short for {count} numbers of {dtype} at {at}")
    return np.frombuffer(body, dtype=dtype, count=count, offset=at)


def _check_end(body: memoryview, at: int) -> None:
    if at != len(body):
        raise RequestError(f"a frame of {len(body)} B, expected {at} B by its sizes")


def _id_of(body: memoryview) -> str:
    return body[:_ID_BYTES].hex()


def _padded_size(size_bytes: int) -> int:
    return -(-size_bytes // 8) * 8


def _padded(content: bytes) -> bytes:
    return content + bytes(_padded_size(len(content)) - len(content))
