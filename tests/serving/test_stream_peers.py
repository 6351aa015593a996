"""What a shard's stream server bears from peers that are slow, silent or greedy."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from pods import Pod, Pods, receive, resident_bytes, wait_for

from exfm.serving.local.processes import Start
from exfm.serving.shard_protocol.frames import HEAD, PING_FRAME, Kind

pytestmark = pytest.mark.slow

SILENCE_S = 8
BROKEN_OFF = 'exfm_failed_requests_total{code="CANCELLED"}'
GREETING_BYTES = HEAD.size + 32
MIB = 2**20


@pytest.fixture(scope="module")
def shard(bundle: Path, tmp_path_factory: pytest.TempPathFactory, start_server: Start) -> Iterator[Pod]:
    pod = Pods(tmp_path_factory.mktemp("peers"), start_server).shard(
        bundle, 0, settings={"deadlines": {"stream_silence_s": SILENCE_S}}
    )
    pod.wait_until_ready()
    yield pod
    pod.server.process.terminate()
    assert pod.exit_code() == 0


def ping(peer: socket.socket) -> None:
    """Return once the shard has greeted."""
    peer.sendall(PING_FRAME)
    receive(peer, GREETING_BYTES)


def wait_until_left(peer: socket.socket) -> None:
    with suppress(ConnectionResetError):
        assert peer.recv(1) == b""


SILENT = {
    "nothing": b"",
    "half a head": PING_FRAME[:7],
    "a head without its body": HEAD.pack(Kind.REQUEST, 1, 0, 1_000, 1),
    "half a body": HEAD.pack(Kind.REQUEST, 1, 0, 1_000, 1) + bytes(500),
}


def test_peers_that_fall_silent_are_left_and_one_that_pings_is_not(shard: Pod) -> None:
    with shard.connect() as healthy, ExitStack() as stack:
        silent = [stack.enter_context(shard.connect()) for _ in SILENT]
        for peer, said in zip(silent, SILENT.values(), strict=True):
            peer.sendall(said)
        said_s = time.monotonic()
        for _ in range(SILENCE_S - 3):
            ping(healthy)
            time.sleep(1)
        for peer in silent:
            wait_until_left(peer)
            assert SILENCE_S - 1 < time.monotonic() - said_s < SILENCE_S + 8
        ping(healthy)


def test_a_request_over_the_limit_is_refused_and_the_next_is_read(shard: Pod) -> None:
    with shard.connect() as peer:
        peer.sendall(HEAD.pack(Kind.REQUEST, 1, 0, 64 * MIB + 1, 7))
        kind, _, _, size, request = HEAD.unpack(receive(peer, HEAD.size))
        assert (kind, request) == (Kind.ERROR, 7)
        assert f"takes {64 * MIB + 1} B; max_message_bytes is {64 * MIB}" in receive(peer, size)[4:].decode()
        for _ in range(64):
            peer.sendall(bytes(MIB))
        peer.sendall(bytes(1))
        ping(peer)


def test_requests_of_a_peer_that_is_gone_are_broken_off_and_counted(shard: Pod) -> None:
    assert shard.counted(BROKEN_OFF) == 0
    process = shard.server.process
    process.send_signal(signal.SIGSTOP)  # or they would be answered as they come
    try:
        with shard.connect() as peer:
            for number in range(100):
                peer.sendall(HEAD.pack(Kind.REQUEST, 0, 0, 0, number))
    finally:
        process.send_signal(signal.SIGCONT)
    wait_for(lambda: shard.counted(BROKEN_OFF) > 0)
    with shard.connect() as another:
        ping(another)


@pytest.mark.parametrize("kind", [Kind.PING, Kind.ANSWER, 99])
def test_another_frame_over_the_limit_breaks_the_connection(shard: Pod, kind: int) -> None:
    with shard.connect() as peer:
        peer.sendall(HEAD.pack(kind, 0, 0, 64 * MIB + 1, 0) + PING_FRAME)
        began_s = time.monotonic()
        wait_until_left(peer)
        assert time.monotonic() - began_s < SILENCE_S / 2


@pytest.mark.parametrize("sent", [30_000, 40_000])
def test_what_peers_only_announce_takes_no_memory(shard: Pod, sent: int) -> None:
    before = resident_bytes(shard.server.process.pid)
    with ExitStack() as stack:
        for _ in range(300):
            peer = stack.enter_context(shard.connect())
            peer.sendall(HEAD.pack(Kind.REQUEST, 1, 0, 64 * MIB, 1) + bytes(sent))
        with shard.connect() as another:
            ping(another)
        assert resident_bytes(shard.server.process.pid) - before < 60 * MIB  # of 19,200 announced
