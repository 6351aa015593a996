"""A shard's answers to the requests of a stream, one after another."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from pods import Pod, Pods, receive, wait_for
from serving_requests import make_request

from exfm.artifact.bundle import BundleManifest
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.models.lookup import LookupBags
from exfm.models.scoring import Scorer
from exfm.schema import Net
from exfm.serving.local.processes import Start
from exfm.serving.shard_protocol.frames import HEAD, Frame, Kind, read_answer, read_error, request_frame

pytestmark = pytest.mark.slow

MAX_CONCURRENCY = 40

ANSWERED = 'exfm_request_seconds_count{model="students-shard-0"}'

Bags = dict[Net, LookupBags]


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> BundleManifest:
    return BundleManifest.read(bundle)


@pytest.fixture(scope="module")
def bags(bundle: Path, manifest: BundleManifest) -> Bags:
    """Return what shard 0 is asked for."""
    batches = encode_request(tensors_from_json(make_request(num_candidates=[3_000])), manifest.feature_schema)
    return dict(Scorer.load(bundle, manifest).bags_for(batches)[0])


@pytest.fixture(scope="module")
def shard(bundle: Path, tmp_path_factory: pytest.TempPathFactory, start_server: Start) -> Iterator[Pod]:
    pod = Pods(tmp_path_factory.mktemp("requests"), start_server).shard(
        bundle, 0, settings={"limits": {"max_concurrency": MAX_CONCURRENCY}}
    )
    try:
        pod.wait_until_ready()
        yield pod
    finally:
        pod.server.process.terminate()
    assert pod.exit_code() == 0


def frames_of(peer: socket.socket, num_frames: int) -> list[Frame]:
    """Return as many frames as come, in the order of their requests."""
    frames = []
    for _ in range(num_frames):
        kind, num_nets, shard, size, request = HEAD.unpack(receive(peer, HEAD.size))
        frames.append(Frame(kind, num_nets, shard, request, memoryview(receive(peer, size))))
    return sorted(frames, key=lambda frame: frame.request)


def test_of_requests_of_a_connection_what_is_wrong_or_late_fails_alone(
    shard: Pod, bags: Bags, manifest: BundleManifest
) -> None:
    wrong = {net: replace(of_net, keys=np.full_like(of_net.keys, 2**64 - 1)) for net, of_net in bags.items()}
    asked = [(bags, 10**7), (wrong, 10**7), (bags, 0), (bags, 10**7)]
    with shard.connect() as peer:
        peer.sendall(
            b"".join(
                request_frame(of_one, request=number, shard=0, bundle_id=manifest.bundle_id, allowed_us=allowed_us)
                for number, (of_one, allowed_us) in enumerate(asked)
            )
        )
        first, refused, late, last = frames_of(peer, len(asked))
    assert read_error(refused)[0] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    status, message = read_error(late)
    assert status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert "passed while other requests were answered" in message
    assert (first.kind, bytes(first.body)) == (last.kind, bytes(last.body))
    bundle_id, pooled = read_answer(first)
    assert bundle_id == manifest.bundle_id
    assert pooled.keys() == bags.keys()


def test_a_sequences_rows_come_one_by_one(
    shard: Pod, manifest: BundleManifest, tables: dict[str, torch.Tensor]
) -> None:
    item = LookupBags(np.array([2**52, 0, 2**52], dtype=np.uint64), lengths_LB=np.ones((1, 3), dtype=np.int32))
    bags: Bags = {"user": LookupBags.of_none(1), "item": item}  # of shard 0, item_id's rows 1, 0 and 1 of 2**12
    with shard.connect() as peer:
        peer.sendall(request_frame(bags, request=0, shard=0, bundle_id=manifest.bundle_id, allowed_us=10**7))
        [frame] = frames_of(peer, 1)
    _, pooled = read_answer(frame)
    np.testing.assert_allclose(pooled["item"], tables["item"][[1, 0, 1]].numpy(), atol=1e-6)


def test_a_ranker_that_does_not_read_holds_up_only_itself_and_loses_nothing(
    shard: Pod, bags: Bags, manifest: BundleManifest
) -> None:
    ask = request_frame(bags, request=0, shard=0, bundle_id=manifest.bundle_id, allowed_us=10**8)
    num_asked = 0
    with shard.connect() as deaf, shard.connect() as other:
        while True:
            before = shard.counted(ANSWERED)
            deaf.sendall(20 * ask)
            num_asked += 20
            time.sleep(0.1)
            if shard.counted(ANSWERED) - before < 20:
                break
            assert num_asked < 20_000
        for _ in range(5):
            other.sendall(ask)
            [frame] = frames_of(other, 1)
            assert frame.kind == Kind.ANSWER
        assert {frame.kind for frame in frames_of(deaf, num_asked)} == {Kind.ANSWER}


def test_rankers_that_hang_up_while_their_requests_wait_give_their_places_back(
    shard: Pod, bags: Bags, manifest: BundleManifest
) -> None:
    ask = request_frame(bags, request=0, shard=0, bundle_id=manifest.bundle_id, allowed_us=10**7)
    for _ in range(2 * MAX_CONCURRENCY):
        with shard.connect() as peer:
            peer.sendall(3 * ask)

    def takes_as_many_as_ever() -> bool:
        with shard.connect() as peer:
            peer.sendall(MAX_CONCURRENCY * ask)
            return {frame.kind for frame in frames_of(peer, MAX_CONCURRENCY)} == {Kind.ANSWER}

    wait_for(takes_as_many_as_ever)
    assert not any("Traceback" in line for line in shard.lines())
