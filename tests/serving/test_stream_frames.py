"""Frames between ranker and shard: what goes in comes out, however the stream cuts it, and what is wrong is refused."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from exfm.errors import RequestError
from exfm.models.lookup import LookupBags
from exfm.schema import NETS, Net
from exfm.serving.shard_protocol.connection import STAGING_BYTES, STEPS_BYTES, Connection, new_staging
from exfm.serving.shard_protocol.frames import (
    HEAD,
    PING_FRAME,
    Frame,
    Kind,
    answer_frame,
    error_frame,
    read_answer,
    read_error,
    read_request,
    request_frame,
    split_note,
    with_note,
)

BUNDLE_ID = "0123456789abcdef" * 4

POOLED = {"user": np.ones((3, 4), np.float32)}

LENGTHS = arrays.arrays(np.int64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 4))


class Listener(Connection):
    """Keeps the frames that it takes."""

    def __init__(self, *, max_body_bytes: int = 2**31, staging: memoryview | None = None) -> None:
        super().__init__(max_body_bytes=max_body_bytes, staging=staging or new_staging())
        self.frames: list[Frame] = []
        self.refused: list[tuple[int, int]] = []

    def take(self, frame: Frame) -> None:
        self.frames.append(frame)

    def refuse(self, frame: Frame, *, size_bytes: int) -> bool:
        self.refused.append((frame.request, size_bytes))
        return True


def feed(listener: Listener, content: bytes, sizes: Sequence[int]) -> None:
    """Give a listener some bytes in pieces of these sizes, in turn, or smaller ones."""
    at, turn = 0, 0
    while at < len(content):
        buffer = listener.get_buffer(-1)
        size = min(sizes[turn % len(sizes)], len(buffer), len(content) - at)
        buffer[:size] = content[at : at + size]
        listener.buffer_updated(size)
        at, turn = at + size, turn + 1


def frame_of(content: bytes) -> Frame:
    listener = Listener()
    feed(listener, content, [len(content)])
    [frame] = listener.frames
    return frame


def bags_of(lengths_LB: np.ndarray) -> LookupBags:
    keys = np.random.default_rng(0).integers(2**63, size=int(lengths_LB.sum()), dtype=np.uint64) * np.uint64(2)
    return LookupBags(keys=keys, lengths_LB=lengths_LB.astype(np.int32))


@given(lengths=st.dictionaries(st.sampled_from(NETS), LENGTHS, min_size=1), allowed_us=st.integers(0, 2**64 - 1))
def test_a_shard_reads_the_bags_that_a_ranker_asks_for(lengths: dict[Net, np.ndarray], allowed_us: int) -> None:
    bags = {net: bags_of(of_net) for net, of_net in lengths.items()}
    frame = frame_of(request_frame(bags, request=7, shard=5, bundle_id=BUNDLE_ID, allowed_us=allowed_us))
    ask = read_request(frame)
    assert (frame.kind, frame.request, ask.shard, ask.bundle_id, ask.allowed_us) == (
        Kind.REQUEST,
        7,
        5,
        BUNDLE_ID,
        allowed_us,
    )
    assert ask.keys.keys() == lengths.keys()
    for net, of_net in bags.items():
        np.testing.assert_array_equal(ask.keys[net], of_net.keys)
        np.testing.assert_array_equal(ask.lengths[net], lengths[net])
    assert not ask.lookups


@given(lengths=st.dictionaries(st.sampled_from(NETS), LENGTHS, min_size=1), seed=st.integers(0, 99))
def test_a_shard_reads_which_lookups_a_ranker_asks_for(lengths: dict[Net, np.ndarray], seed: int) -> None:
    generator = np.random.default_rng(seed)
    places = {net: sorted(generator.choice(40, len(of_net), replace=False).tolist()) for net, of_net in lengths.items()}
    some = {net for net in lengths if generator.random() < 0.5}
    bags = {
        net: replace(bags_of(of_net), only=tuple(places[net]) if net in some else None)
        for net, of_net in lengths.items()
    }
    ask = read_request(frame_of(request_frame(bags, request=1, shard=0, bundle_id=BUNDLE_ID, allowed_us=1)))
    assert {net: of_net.tolist() for net, of_net in ask.lookups.items()} == {net: places[net] for net in some}
    for net, of_net in bags.items():
        np.testing.assert_array_equal(ask.keys[net], of_net.keys)
        np.testing.assert_array_equal(ask.lengths[net], lengths[net])


@given(
    shapes=st.dictionaries(st.sampled_from(NETS), st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1),
    dtype=st.sampled_from([np.float32, np.float16]),
)
def test_a_ranker_reads_the_pooled_embeddings_that_a_shard_answers(
    shapes: dict[Net, tuple[int, int]], dtype: type[np.float32 | np.float16]
) -> None:
    generator = np.random.default_rng(0)
    pooled = {net: generator.normal(size=shape).astype(dtype) for net, shape in shapes.items()}
    frame = frame_of(b"".join(answer_frame(pooled, request=2**64 - 1, bundle_id=BUNDLE_ID)))
    bundle_id, found = read_answer(frame)
    assert (frame.kind, frame.request, bundle_id) == (Kind.ANSWER, 2**64 - 1, BUNDLE_ID)
    assert found.keys() == pooled.keys()
    for net, of_net in pooled.items():
        np.testing.assert_array_equal(found[net], of_net)
        assert found[net].dtype == dtype


def test_pooled_embeddings_of_an_unknown_precision_are_refused() -> None:
    content = bytearray(b"".join(answer_frame({"user": np.ones((1, 2), np.float16)}, request=1, bundle_id=BUNDLE_ID)))
    content[HEAD.size + 32 + 4] = 3  # the bytes of a number, after bundle id and net
    with pytest.raises(RequestError, match=r"pooled embeddings have 3 B a number, expected one of \[4, 2\]"):
        read_answer(frame_of(bytes(content)))


def test_an_error_keeps_its_status_and_its_message() -> None:
    frame = frame_of(error_frame(9, "bundle \u2713", request=3))
    assert (frame.kind, frame.request, read_error(frame)) == (Kind.ERROR, 3, (9, "bundle \u2713"))


@given(
    bodies=st.lists(
        st.integers(0, 200)
        | st.sampled_from([STAGING_BYTES, *STEPS_BYTES]).flatmap(lambda size: st.integers(size - 40, size + 40)),
        max_size=6,
    ),
    sizes=st.lists(st.integers(1, 100_000), min_size=1, max_size=5),
)
def test_frames_come_whole_and_in_order_however_the_stream_is_cut(bodies: list[int], sizes: list[int]) -> None:
    expected = [(number, bytes([number]) * size) for number, size in enumerate(bodies)]
    stream = b"".join(HEAD.pack(Kind.REQUEST, 0, 0, len(body), number) + body for number, body in expected)
    listener = Listener()
    feed(listener, stream + PING_FRAME, sizes if len(stream) < 10_000 else [max(*sizes, 4096)])
    assert [(frame.request, bytes(frame.body)) for frame in listener.frames[:-1]] == expected
    assert listener.frames[-1].kind == Kind.PING


def test_connections_that_share_where_they_read_keep_their_frames_apart() -> None:
    staging = new_staging()
    listeners = [Listener(staging=staging) for _ in range(3)]
    streams = [
        b"".join(
            HEAD.pack(Kind.REQUEST, 0, 0, 40, request) + bytes([request]) * 40 for request in (3 * index, 3 * index + 1)
        )
        for index in range(3)
    ]
    for at in range(0, len(streams[0]), 7):  # in turn, and each time in the middle of something
        for listener, stream in zip(listeners, streams, strict=True):
            feed(listener, stream[at : at + 7], [7])
    for index, listener in enumerate(listeners):
        expected = [(request, bytes([request]) * 40) for request in (3 * index, 3 * index + 1)]
        assert [(frame.request, bytes(frame.body)) for frame in listener.frames] == expected


@pytest.mark.parametrize(
    ("came", "room"),
    [
        (0, STEPS_BYTES[0]),
        (STEPS_BYTES[0] - 1, STEPS_BYTES[0]),
        (STEPS_BYTES[0], STEPS_BYTES[1]),
        (STEPS_BYTES[1] - 1, STEPS_BYTES[1]),
        (STEPS_BYTES[1], 4 * 2**20),
        (STEPS_BYTES[1] + 1, 4 * 2**20),
    ],
)
def test_a_large_body_gets_room_as_it_comes(came: int, room: int) -> None:
    body = np.random.default_rng(0).bytes(4 * 2**20)
    stream = HEAD.pack(Kind.REQUEST, 0, 0, len(body), 7) + body
    listener = Listener()
    feed(listener, stream[: HEAD.size + came], [STAGING_BYTES])
    assert len(listener.get_buffer(-1)) == room - came
    feed(listener, stream[HEAD.size + came :] + PING_FRAME, [100_000])
    assert [(frame.request, bytes(frame.body)) for frame in listener.frames] == [(7, body), (0, b"")]


@pytest.mark.parametrize(
    ("size_bytes", "piece"),
    [
        *product([101], [1, HEAD.size, 37, STAGING_BYTES]),
        *product([3 * STAGING_BYTES], [1_001, STAGING_BYTES]),
    ],
)
def test_a_frame_over_the_limit_is_skipped_and_those_around_it_are_not(size_bytes: int, piece: int) -> None:
    listener = Listener(max_body_bytes=100)
    frames = [(1, 100), (2, size_bytes), (3, size_bytes), (4, 100)]
    stream = b"".join(
        HEAD.pack(Kind.REQUEST, 0, 0, size, request) + bytes([request]) * size for request, size in frames
    )
    feed(listener, stream, [piece])
    assert [(frame.request, bytes(frame.body)) for frame in listener.frames] == [(n, bytes([n]) * 100) for n in (1, 4)]
    assert listener.refused == [(2, size_bytes), (3, size_bytes)]


@given(content=st.binary(max_size=200), num_nets=st.integers(0, 255))
def test_bodies_that_contradict_themselves_are_refused_and_break_nothing(content: bytes, num_nets: int) -> None:
    frame = Frame(kind=Kind.REQUEST, num_nets=num_nets, shard=0, request=1, body=memoryview(content))
    for read in (read_request, read_answer):
        try:
            read(frame)
        except RequestError:
            continue
        assert num_nets <= len(NETS)


@pytest.mark.parametrize("change", [-8, 8])
def test_a_frame_of_another_size_than_its_arrays_is_refused(change: int) -> None:
    whole = request_frame(
        {"user": bags_of(np.array([[1, 2], [0, 3]]))}, request=1, shard=0, bundle_id=BUNDLE_ID, allowed_us=1
    )
    body = whole[HEAD.size :]
    changed = body[:change] if change < 0 else body + bytes(change)
    with pytest.raises(RequestError, match="a frame of"):
        read_request(Frame(kind=Kind.REQUEST, num_nets=1, shard=0, request=1, body=memoryview(changed)))


@given(note=st.binary(max_size=300))
def test_a_traced_frame_is_the_plain_one_with_a_note(note: bytes) -> None:
    asks = [request_frame({"user": bags_of(np.array([[1, 2]]))}, request=1, shard=4, bundle_id=BUNDLE_ID, allowed_us=1)]
    for parts, kind in (
        (asks, Kind.TRACED_REQUEST),
        (answer_frame(POOLED, request=1, bundle_id=BUNDLE_ID), Kind.TRACED_ANSWER),
    ):
        traced = frame_of(b"".join(with_note(parts, note)))
        assert traced.kind == kind
        assert split_note(traced) == (frame_of(b"".join(parts)), note)


@given(content=st.binary(max_size=100), num_nets=st.integers(0, 3))
def test_a_note_longer_than_its_frame_is_refused(content: bytes, num_nets: int) -> None:
    frame = Frame(kind=Kind.TRACED_REQUEST, num_nets=num_nets, shard=0, request=1, body=memoryview(content))
    try:
        plain, note = split_note(frame)
    except RequestError:
        return
    assert len(plain.body) + len(note) + 4 == len(content)
