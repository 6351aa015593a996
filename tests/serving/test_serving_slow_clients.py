"""Clients that send a request slowly, in part or not at all keep nobody else out."""

import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from pods import Pod, Pods, resident_bytes, wait_for
from serving_requests import infer_by_grpc, make_request, never, offline_scores, scores_of

from exfm.serving.oip.grpc.protobuf import INFER_METHOD
from exfm.serving.oip.rest.server import HEADERS_S
from exfm.serving.requests.arrivals import IDLE_TICKS, TICK_S

pytestmark = pytest.mark.slow

IDLE_S = IDLE_TICKS * TICK_S
MIB = 2**20
NUM_PENDING = 40
READY_METHOD = INFER_METHOD.replace("ModelInfer", "ModelReady")
CLOSED = "exfm_closed_unfinished_requests_total"


def start(bundle: Path, pods: Pods, **settings: Any) -> Pod:
    """Return a ranker that is ready."""
    shards = [pods.shard(bundle, number).lookup_address for number in range(2)]
    ranker = pods.ranker(bundle, shards, settings=settings)
    ranker.wait_until_ready()
    return ranker


def connect(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def half_by_rest(ranker: Pod, *, num_bytes: int = 10, num_promised: int = 1_000) -> socket.socket:
    """Return the connection of a request of which no more than a part of the body comes."""
    client = connect(urlsplit(ranker.rest_url).netloc)
    head = f"POST /v2/models/students/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {num_promised}\r\n\r\n"
    client.sendall(head.encode() + b"{" + b" " * (num_bytes - 1))
    return client


def half_by_grpc(ranker: Pod) -> socket.socket:
    """Return the connection of a call of which no more than a part of the message comes: HTTP/2 by hand."""

    def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
        return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content

    def text(value: str) -> bytes:
        return bytes([len(value)]) + value.encode()

    headers = {
        ":method": "POST", ":scheme": "http", ":path": INFER_METHOD, ":authority": "x",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    fields = b"".join(b"\0" + text(name) + text(value) for name, value in headers.items())
    client = connect(ranker.grpc_address)
    client.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, b"")  # settings
        + frame(1, 4, 1, fields)  # all headers of stream 1
        + frame(0, 0, 1, struct.pack(">BI", 0, 1_000) + bytes(500))  # half of a message
    )
    return client


@contextmanager
def pending(make: Any, ranker: Pod, *, number: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(make(ranker)) for _ in range(number)]


def received(client: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    return b"".join(iter(lambda: client.recv(1_000), b""))


def is_answered(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])


@pytest.mark.parametrize("make", [half_by_rest, half_by_grpc])
def test_requests_sent_in_half_keep_nobody_out(bundle: Path, pods: Pods, make: Any) -> None:
    ranker = start(bundle, pods, limits={"max_concurrency": 2})
    expected = offline_scores(bundle, make_request())
    with pending(make, ranker, number=NUM_PENDING):
        time.sleep(0.3)  # the server has heard of all
        began_s = time.monotonic()
        for scores in (scores_of(ranker.infer()), infer_by_grpc(ranker.grpc_address, make_request())):
            for task, values in expected.items():
                assert scores[task] == pytest.approx(values, abs=1e-5)
        assert time.monotonic() - began_s < 1
        assert ranker.counted(CLOSED) == 0, "they are still waited for"
        assert ranker.counted('exfm_refused_requests_total{model="students"}') == 0


def test_a_body_of_which_nothing_more_comes_is_closed_after_two_seconds(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods)
    began_s = time.monotonic()
    with half_by_rest(ranker) as idle, half_by_rest(ranker, num_promised=12) as slow:
        time.sleep(IDLE_S - 0.5)
        slow.sendall(b" ")
        answer = received(idle)
        assert IDLE_S - 0.1 < time.monotonic() - began_s < IDLE_S + 2
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"the request has 10 B so far; no byte came for 2 s; send all of it" in answer
        slow.sendall(b" ")
        assert slow.recv(1_000).startswith(b"HTTP/1.1 400 "), "it came, though it is no JSON"
    assert ranker.counted('exfm_failed_requests_total{code="DEADLINE_EXCEEDED"}') == 1
    assert ranker.counted(CLOSED) == 1


def test_one_unfinished_body_too_many_closes_the_one_that_was_idle_for_longest(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods, limits={"max_unfinished_requests": 3})
    with pending(half_by_rest, ranker, number=3) as clients:
        time.sleep(0.3)
        began_s = time.monotonic()
        with half_by_rest(ranker):
            answer = received(clients[0])
        assert time.monotonic() - began_s < 1
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1\r\n" in answer
        assert b"4 requests are unfinished; max_unfinished_requests is 3: this one was idle for longest" in answer
        assert not any(map(is_answered, clients[1:]))
    assert ranker.infer()


def test_unfinished_bodies_hold_no_more_bytes_than_allowed(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods, limits={"max_message_bytes": 8 * MIB, "max_unfinished_bytes": 8 * MIB})
    before = resident_bytes(ranker.server.process.pid, at_most=True)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(half_by_rest(ranker, num_bytes=3 * MIB, num_promised=6 * MIB)) for _ in range(40)
        ]
        wait_for(lambda: all(map(is_answered, clients[:30])))
        assert clients[0].recv(1_000).startswith(b"HTTP/1.1 429 ")
        assert ranker.infer()
    assert resident_bytes(ranker.server.process.pid, at_most=True) - before < 40 * MIB, "not 120"


def test_messages_that_do_not_come_are_few_after_two_seconds(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods, limits={"max_message_bytes": MIB, "max_unfinished_bytes": 2 * MIB})
    is_over = Event()
    with grpc.insecure_channel(ranker.grpc_address) as channel:
        try:
            began_s = time.monotonic()
            stalled = [channel.stream_unary(INFER_METHOD).future(never(is_over)) for _ in range(5)]
            wait_for(lambda: sum(one.done() for one in stalled) == 3)
            assert IDLE_S - 0.1 < time.monotonic() - began_s < IDLE_S + 2
            assert infer_by_grpc(ranker.grpc_address, make_request())
            for one in stalled:
                if one.done():
                    assert one.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                    assert "unfinished requests hold 3145728 B; max_unfinished_bytes is 2097152" in one.details()
        finally:
            is_over.set()


def test_a_message_that_does_not_come_at_all_is_waited_for_fifteen_seconds(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods)
    is_over = Event()
    with grpc.insecure_channel(ranker.grpc_address) as channel:
        try:
            late = [channel.stream_unary(method).future(never(is_over)) for method in (READY_METHOD, INFER_METHOD)]
            for one in late:
                assert one.exception(timeout=30) is not None
                assert one.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                assert one.details() == "the request was not complete within 15 s; send it faster"
            with pytest.raises(grpc.RpcError, match="the call ended without a message"):
                channel.stream_unary(INFER_METHOD)(iter(()), timeout=10)
        finally:
            is_over.set()
    assert ranker.infer()


def is_closed(client: socket.socket) -> bool:
    """Return whether the server closed a connection without an answer; waits for that, or for an answer."""
    try:
        return client.recv(1_000) == b""
    except ConnectionResetError:
        return True


def answer_of(client: socket.socket) -> bytes:
    """Return a whole answer to a readiness check, which may come in pieces."""
    answer = b""
    while not answer.endswith(b'{"ready":true}'):
        piece = client.recv(1_000)
        assert piece, f"the connection is closed after {answer!r}"
        answer += piece
    return answer


def test_headers_that_do_not_come_are_waited_for_fifteen_seconds(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods)
    address = urlsplit(ranker.rest_url).netloc
    with connect(address) as idle, connect(address) as slow:
        began_s = time.monotonic()
        for client in (idle, slow):
            client.sendall(b"GET /v2/health/ready HTTP/1.1\r\n")
        time.sleep(0.5)
        slow.sendall(b"host: x\r\n\r\n")
        assert answer_of(slow).startswith(b"HTTP/1.1 200 ")
        assert is_closed(idle)
        assert HEADERS_S - 1 < time.monotonic() - began_s < HEADERS_S + 3
        slow.sendall(b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n")
        assert answer_of(slow).startswith(b"HTTP/1.1 200 "), "a connection between two requests stays open"
    assert ranker.infer()


def test_headers_without_an_end_close_their_connection(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods)
    before = resident_bytes(ranker.server.process.pid, at_most=True)
    with connect(urlsplit(ranker.rest_url).netloc) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx: ")
        with pytest.raises(ConnectionError):
            client.sendall(b"x" * 100 * MIB)
    assert resident_bytes(ranker.server.process.pid, at_most=True) - before < 20 * MIB, "not 100"
    assert ranker.infer()
