"""Frames: what a ranker and a shard say to each other over a plain stream.

A frame is a head of 16 bytes and a body; numbers are little-endian, and every array starts on 8 bytes.

    head       kind u8, nets u8, number of the shard u16, size of the body u32, number of the request u64
    ASK        bundle id (32 bytes), time allowed in microseconds u64, then for each net its sizes: net u32, lookups L
               u32, rows B u32, keys K u32; then for each net keys u64 [K] and lengths i32 [L, B], padded; and where
               256 is added to the net, since some of a shard's lookups are left out, the places of these L i32, padded
    ANSWER     bundle id (32 bytes), then for each net its sizes: net u32, bytes of a number u32 (4 or 2), rows B
               u32, dims E u32; then for each net sums f32 or f16 [B, E], padded
    ERROR      gRPC's status code u32, then a message in UTF-8
    LEAVING    nothing: the server takes no new request on this connection, and closes it after the last answer
    PING       nothing, or in a server's answer its bundle id (32 bytes): a ranker asks who is there
    TRACED_    as ASK, then a note and its size u32: the trace that the request is part of (W3C's traceparent and
    ASK        tracestate, a line each), or nothing
    TRACED_    as ANSWER, then a note and its size u32: where the time went at the shard, as JSON
    ANSWER     (exfm.serving.profiler.breakdown)

An ASK names the shard that it is for, and a server's PING the shard that it holds.

Keys, lengths and sums are those of exfm.serving.shard.oip_lookups.
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
Sums = npt.NDArray[np.float32] | npt.NDArray[np.float16]
"""Shape [B, E]."""

HEAD = struct.Struct("<BBHIQ")
_SUMS_TYPES = {4: "<f4", 2: "<f2"}
_SIZES = struct.Struct("<IIII")
_NOTE_SIZE = struct.Struct("<I")
_SOME = 256
"""Added to the number of a net of which some lookups are left out."""
_ID_BYTES = 32
_ASK_BYTES = _ID_BYTES + 8
_STATUS_BYTES = 4


class Kind(IntEnum):
    """What a frame is."""

    ASK = 1
    ANSWER = 2
    ERROR = 3
    LEAVING = 4
    PING = 5
    TRACED_ASK = 6
    TRACED_ANSWER = 7


_TRACED: dict[int, Kind] = {Kind.ASK: Kind.TRACED_ASK, Kind.ANSWER: Kind.TRACED_ANSWER}
_PLAIN: dict[int, int] = {traced: plain for plain, traced in _TRACED.items()}


@dataclass(frozen=True)
class Frame:
    """A frame as it came."""

    kind: int
    num_nets: int
    shard: int
    request: int
    body: memoryview


@dataclass(frozen=True)
class Ask:
    """What a ranker wants of a shard."""

    shard: int
    bundle_id: str
    allowed_us: int
    keys: Mapping[Net, Keys]
    """The keys of the first lookup's bags, row after row, then of the next lookup's."""
    lengths: Mapping[Net, Lengths]
    """Keys of each lookup's bags; shape [L, B]."""
    lookups: Mapping[Net, Lengths]
    """The lookups' places among the shard's, [L], for a net of which some are left out."""


def ask_frame(bags: Mapping[Net, LookupBags], *, request: int, shard: int, bundle_id: str, allowed_us: int) -> bytes:
    """Return the frame that asks a shard for these bags."""
    sizes, arrays = b"", []
    for net, of_net in bags.items():
        number = NETS.index(net) + (0 if of_net.only is None else _SOME)
        sizes += _SIZES.pack(number, *of_net.lengths_LB.shape, len(of_net.keys))
        arrays.append(of_net.keys.astype("<u8", copy=False).tobytes())
        arrays.append(_padded(of_net.lengths_LB.astype("<i4", copy=False).tobytes()))
        if of_net.only is not None:
            arrays.append(_padded(struct.pack(f"<{len(of_net.only)}i", *of_net.only)))
    body = [bytes.fromhex(bundle_id), struct.pack("<Q", allowed_us), sizes, *arrays]
    return b"".join([HEAD.pack(Kind.ASK, len(bags), shard, sum(map(len, body)), request), *body])


def read_ask(frame: Frame) -> Ask:
    """Return what an ASK frame holds; arrays are views of it.

    Raises: RequestError if its sizes contradict each other.
    """
    body, keys, lengths, lookups = frame.body, {}, {}, {}
    sizes, at = _sizes_of(frame, after=_ASK_BYTES, may_be_some=True)
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
    return Ask(frame.shard, _id_of(body), allowed_us=allowed_us, keys=keys, lengths=lengths, lookups=lookups)


def answer_frame(sums: Mapping[Net, Sums], *, request: int, bundle_id: str) -> list[bytes | memoryview]:
    """Return the frame of an answer in parts; the sums of a net are not copied."""
    sizes, parts = b"", list[bytes | memoryview]()
    for net, of_net in sums.items():
        sizes += _SIZES.pack(NETS.index(net), of_net.itemsize, *of_net.shape)
        raw = raw_view(of_net)
        parts += [raw, bytes(_padded_size(len(raw)) - len(raw))]
    first = bytes.fromhex(bundle_id) + sizes
    return [HEAD.pack(Kind.ANSWER, len(sums), 0, len(first) + sum(map(len, parts)), request) + first, *parts]


def read_answer(frame: Frame) -> tuple[str, dict[Net, Sums]]:
    """Return an ANSWER frame's bundle id, and each net's sums [B, E], views of it.

    Raises: RequestError if its sizes contradict each other.
    """
    body, sums = frame.body, dict[Net, Sums]()
    sizes, at = _sizes_of(frame, after=_ID_BYTES)
    for net, _, item_bytes, num_rows, num_dims in sizes:
        if item_bytes not in _SUMS_TYPES:
            raise RequestError(f"sums of {item_bytes} B a number, expected one of {list(_SUMS_TYPES)}")
        of_net: Any = _array(body, at, num_rows * num_dims, _SUMS_TYPES[item_bytes])
        of_net = of_net.astype(of_net.dtype.newbyteorder("="), copy=False)
        sums[net] = of_net.reshape(num_rows, num_dims)
        at += _padded_size(item_bytes * num_rows * num_dims)
    _check_end(body, at)
    return _id_of(body), sums


def with_note(parts: Sequence[bytes | memoryview], note: bytes) -> list[bytes | memoryview]:
    """Return the traced form of an ASK or an ANSWER, whose first part has the whole head."""
    kind, num_nets, shard, size_bytes, request = HEAD.unpack_from(parts[0])
    head = HEAD.pack(_TRACED[kind], num_nets, shard, size_bytes + len(note) + _NOTE_SIZE.size, request)
    return [head + parts[0][HEAD.size :], *parts[1:], note + _NOTE_SIZE.pack(len(note))]


def split_note(frame: Frame) -> tuple[Frame, bytes]:
    """Return the plain form of a TRACED_ASK or a TRACED_ANSWER, and its note.

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


LEAVING_FRAME = HEAD.pack(Kind.LEAVING, 0, 0, 0, 0)
PING_FRAME = HEAD.pack(Kind.PING, 0, 0, 0, 0)


def greeting_frame(*, bundle_id: str, shard: int) -> bytes:
    """Return a server's answer to a PING."""
    return HEAD.pack(Kind.PING, 0, shard, _ID_BYTES, 0) + bytes.fromhex(bundle_id)


def read_greeting(frame: Frame) -> tuple[str, int]:
    """Return the bundle id and the shard in a server's answer to a PING; of another protocol, an empty one."""
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
