"""Protobuf's wire format, where protobuf's own code would copy or allocate too much.

Source: the wire format, https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Sequence

_RAW_OUTPUT_TAG = 6 << 3 | 2
"""Of raw_output_contents in a ModelInferResponse; the lower bits are protobuf's type of what has a length."""
_TYPE, _HAS_LENGTH = 7, 2
MAX_SIZE_BYTES = 5
"""Of protobuf's numbers that say how long something is, or what."""


def with_raw_outputs(head: bytes, raw: Sequence[bytes | memoryview]) -> bytes:
    """Return a serialized ModelInferResponse with these raw contents: protobuf alone would copy them twice more."""
    parts: list[bytes | memoryview] = [head]
    for one in raw:
        parts += [bytes([_RAW_OUTPUT_TAG]) + _varint(len(one)), one]
    return b"".join(parts)


def varint_at(content: bytes | memoryview, at: int, *, max_bytes: int = MAX_SIZE_BYTES) -> tuple[int, int]:
    """Return protobuf's number at a place, and where it ends; behind the end if it is cut short or longer."""
    if at < len(content) and content[at] < 0x80:  # as nearly all are
        return content[at], at + 1
    number = 0
    for place, byte in enumerate(content[at : at + max_bytes]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    return 0, len(content) + 1


def _varint(number: int) -> bytes:
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
