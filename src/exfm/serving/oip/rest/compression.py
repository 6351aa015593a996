"""Compressed bodies of REST requests, by the header Content-Encoding."""

import zlib

from exfm.errors import BodyTooLargeError, EncodingError, RequestError

_FORMATS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's number of each encoding's format; HTTP's deflate is the zlib format."""


def encoding_of(header: str) -> str:
    """Return the encoding that a header Content-Encoding names; empty if the body is not compressed.

    Raises: EncodingError if servers do not support it.
    """
    encoding = header.strip().lower()
    if encoding in {"", "identity"}:
        return ""
    if encoding not in _FORMATS:
        raise EncodingError(
            f"header content-encoding is {header!r:.40}, expected one of {', '.join(_FORMATS)}; compress the body so, "
            "or send it as it is"
        )
    return encoding


def decompressed(body: bytes, *, encoding: str, max_bytes: int) -> bytes:
    """Return a body's decompressed content, at most `max_bytes`; decompression stops there.

    Raises: BodyTooLargeError if the content is larger; RequestError if the body is damaged.
    """
    if not encoding:
        return body
    decompressor = zlib.decompressobj(_FORMATS[encoding])
    try:
        content = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise RequestError(f"the body of {len(body)} B is not {encoding}, its content-encoding ({error})") from error
    if len(content) > max_bytes:
        raise BodyTooLargeError(
            f"the body, once expanded, is larger than max_message_bytes, {max_bytes} B: send it in parts"
        )
    if not decompressor.eof:
        raise RequestError(f"the body of {len(body)} B ends within its {encoding} data; send all of it")
    if decompressor.unused_data:
        raise RequestError(f"{len(decompressor.unused_data)} B follow the body's {encoding} data; send one stream")
    return content
