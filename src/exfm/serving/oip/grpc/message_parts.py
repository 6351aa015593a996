"""Counts the parts of a message before protobuf decodes it: two bytes may become an object of fifty.

Source: the wire format, https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from exfm.errors import RequestError

MAX_UNCOUNTED_BYTES = 128 * 2**10
"""A message up to this size is decoded without being counted."""
MAX_FIELDS = 16_384
"""Most fields of a message, nested ones included and values not: enough for 2,000 tensors in typed form."""
CONTENTS = "InferTensorContents"
"""The message whose fields are tensor values."""

_TYPE, _VARINT, _FIXED64, _HAS_LENGTH, _FIXED32 = 7, 0, 1, 2, 5
_GROUPS = (3, 4)
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_SIZE_BYTES = 5
"""Most bytes of a tag or a length."""
_MAX_VALUE_BYTES = 10
_GO_ON = bytes(range(0x80, 0x100))
"""The bytes of a varint except its last."""
_NUMBERS = None
"""Stands for a packed list of varints, where a message has a descriptor."""


def check_parts(content: bytes, message: Any, *, max_ids: int) -> None:
    """Return if a serialized message of protobuf's class `message` has no more parts than `max_ids` values need.

    A message that is malformed in another way is left for protobuf to refuse.

    Raises: RequestError.
    """
    if len(content) <= MAX_UNCOUNTED_BYTES:
        return
    max_values = max_ids + MAX_FIELDS  # shapes have values, too
    num_fields, num_values = 0, 0
    waiting = [(0, len(content), message.DESCRIPTOR)]
    while waiting:
        at, end, kind = waiting.pop()
        inner, is_contents = _inner(kind), kind.name == CONTENTS
        while at < end:
            tag, at = _varint_at(content, at)
            if is_contents:
                num_values += 1
            else:
                num_fields += 1
            wire = tag & _TYPE
            if wire == _HAS_LENGTH:
                size, at = _varint_at(content, at)
                if (number := tag >> 3) in inner:
                    found, stop = inner[number], min(at + size, end)
                    if found is _NUMBERS:
                        num_values += len(content[at:stop].translate(None, _GO_ON))
                    else:
                        waiting.append((at, stop, found))
                at += size
            elif wire == _VARINT:
                _, at = _varint_at(content, at, max_bytes=_MAX_VALUE_BYTES)
            elif wire in _FIXED_BYTES:
                at += _FIXED_BYTES[wire]
            elif wire in _GROUPS:
                raise RequestError("the message has a protobuf group, which the protocol does not use; send it without")
            else:
                break
            if num_fields > MAX_FIELDS or num_values > max_values:
                raise RequestError(
                    f"the message of {len(content)} B has more than {MAX_FIELDS} fields or {max_values} values; "
                    f"max_ids is {max_ids}: send it in parts"
                )


@cache
def _inner(kind: Any) -> Mapping[int, Any]:
    """Return the fields that have parts, by number: each with its descriptor, or _NUMBERS."""
    varints = {
        getattr(kind.fields[0], f"TYPE_{name}")
        for name in ("INT32", "INT64", "UINT32", "UINT64", "SINT32", "SINT64", "BOOL", "ENUM")
    }
    messages = {field.number: field.message_type for field in kind.fields if field.message_type is not None}
    return messages | {field.number: _NUMBERS for field in kind.fields if field.is_repeated and field.type in varints}


def _varint_at(content: bytes, at: int, *, max_bytes: int = _MAX_SIZE_BYTES) -> tuple[int, int]:
    """Return the varint at a position, and where it ends; past the end of `content` if it is cut short or too long."""
    if at < len(content) and content[at] < 0x80:  # most varints have one byte
        return content[at], at + 1
    number = 0
    for place, byte in enumerate(content[at : at + max_bytes]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    return 0, len(content) + 1
