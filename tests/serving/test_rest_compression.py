"""Bodies that come compressed."""

import gzip
import zlib

import pytest

from exfm.errors import BodyTooLargeError, EncodingError, RequestError
from exfm.serving.oip.rest.compression import decompressed, encoding_of

CONTENT = b'{"inputs": []}' * 100
BODIES = {"gzip": gzip.compress(CONTENT), "deflate": zlib.compress(CONTENT), "": CONTENT}


@pytest.mark.parametrize("encoding", BODIES)
def test_a_body_is_what_it_was_before_it_was_compressed(encoding: str) -> None:
    assert decompressed(BODIES[encoding], encoding=encoding, max_bytes=len(CONTENT)) == CONTENT


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_expands_beyond_the_bound_is_refused(encoding: str) -> None:
    with pytest.raises(BodyTooLargeError, match="once expanded, is larger than max_message_bytes, 1399 B"):
        decompressed(BODIES[encoding], encoding=encoding, max_bytes=len(CONTENT) - 1)


@pytest.mark.parametrize(
    ("header", "encoding"), [("", ""), ("identity", ""), ("gzip", "gzip"), ("GZIP ", "gzip"), ("deflate", "deflate")]
)
def test_a_header_names_the_encoding(header: str, encoding: str) -> None:
    assert encoding_of(header) == encoding


@pytest.mark.parametrize("header", ["br", "zstd", "gzip, deflate", "gzip, gzip"])
def test_an_encoding_that_is_not_read_is_refused_by_its_name(header: str) -> None:
    with pytest.raises(EncodingError, match=f"content-encoding is '{header}', expected one of gzip, deflate"):
        encoding_of(header)


DAMAGED = {
    "not compressed": (CONTENT, "the body of 1400 B is not gzip"),
    "deflate": (BODIES["deflate"], "is not gzip"),
    "cut short": (BODIES["gzip"][:-1], "ends within its gzip data"),
    "nothing": (b"", "the body of 0 B ends within its gzip data"),
    "more": (BODIES["gzip"] + b"12345", "5 B follow the body's gzip data"),
    "changed": (BODIES["gzip"][:-8] + bytes(8), "is not gzip"),
}


@pytest.mark.parametrize(("body", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_body_is_told_what_is_wrong(body: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        decompressed(body, encoding="gzip", max_bytes=10_000)
