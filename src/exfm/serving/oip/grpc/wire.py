"""Parts of protobuf's wire format, for cases in which protobuf itself would copy or allocate too much.

Source: the wire format, https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Sequence

_RAW_OUTPUT_TAG = 6 << 3 | 2
"""The tag of raw_output_contents in a ModelInferResponse; its lower bits are the wire type of a field with a length."""
_TYPE, _HAS_LENGTH = 7, 2
MAX_SIZE_BYTES = 5
"""Most bytes of a tag or a length."""


def with_raw_outputs(head: bytes, raw: Sequence[bytes | memoryview]) -> bytes:
    """Return a serialized ModelInferResponse with these raw contents, which are copied once."""
    parts: list[bytes | memoryview] = [head]
    for one in raw:
        parts += [bytes([_RAW_OUTPUT_TAG]) + _varint(len(one)), one]
    return b"".join(parts)


def varint_at(content: bytes | memoryview, at: int, *, max_bytes: int = MAX_SIZE_BYTES) -> tuple[int, int]:
    """Return the varint at a position, and where it ends; past the end of `content` if it is cut short or too long."""
    if at < len(content) and content[at] < 0x80:  # most varints have one byte
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
