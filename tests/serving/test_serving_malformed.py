"""Random malformed requests: a ranker and a shard refuse each as its sender's mistake, and keep nothing."""

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pods import resident_bytes
from serving_requests import grpc_inputs, make_request, offline_scores, scores_of, typed_request
from tritonclient.grpc import service_pb2 as pb

from exfm.models.lookup import LookupBags
from exfm.serving.local.processes import Start
from exfm.serving.local.serving import LocalServing, serve_local
from exfm.serving.oip.grpc.protobuf import INFER_METHOD
from exfm.serving.shard_protocol.frames import HEAD, Frame, Kind, read_error, request_frame

pytestmark = pytest.mark.slow

NUM_REQUESTS = 1_000
"""Of each of the four kinds, that are refused: twice as many are sent, of which some are answered after all."""
NUM_BEFORE = 300
"""Good requests before, which fill caches."""
NUM_SETTLING = 1_000
"""Malformed ones before memory is looked at: the first few widen a server's heap."""
STRETCH = 100
"""Requests from one look at memory to the next: a leak grows in each stretch, a heap that is widened grows in one."""
MAX_GROWTH_BYTES = STRETCH * 1024
"""Of a server's memory in the median stretch: 1 KiB a request."""
TIMEOUT_S = 30

many = settings(max_examples=2 * NUM_REQUESTS, database=None, suppress_health_check=list(HealthCheck))

ENDS = {
    "answered",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "400",
    "404",
    "412",
    "closed",
}
"""How a malformed request may end; it may be answered, for a change can be harmless."""

Draw = Callable[[st.SearchStrategy[Any]], Any]
Ask = Callable[[bytes], str]
"""Sends a request, and returns how it ended."""
End = Callable[[str], None]
"""Is told how a request ended."""


@pytest.fixture(scope="module")
def serving(bundle: Path, start_server: Start) -> Iterator[LocalServing]:
    with serve_local(bundle, start=start_server) as serving:
        yield serving


@contextmanager
def watched(serving: LocalServing, bundle: Path, *, server: int, ask: Ask, good: bytes) -> Iterator[End]:
    """Yield what counts how requests to a server ended; then check that it has kept its wits and its memory."""
    ends: Counter[str] = Counter()
    process = serving.servers[server].process
    resident: list[int] = []

    def end(how: str) -> None:
        assert how in ENDS
        ends[how] += 1
        if ends.total() >= NUM_SETTLING and ends.total() % STRETCH == 0:
            resident.append(resident_bytes(process.pid))

    assert {ask(good) for _ in range(NUM_BEFORE)} == {"answered"}
    yield end
    assert np.median(np.diff(resident)) < MAX_GROWTH_BYTES
    assert ends.total() - ends["answered"] >= NUM_REQUESTS
    scores = scores_of(serving.infer(make_request()))
    for task, values in offline_scores(bundle, make_request()).items():
        assert scores[task] == pytest.approx(values, abs=1e-5)


# What is changed of a good request.

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 5)
SHAPES = st.lists(NUMBERS | st.sampled_from([0, 1, 2, 3, 2**31, 2**32, 2**40]), max_size=4)
DATATYPES = st.sampled_from(
    ["BOOL", "UINT8", "UINT64", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "INT128", ""]
) | st.text(max_size=8)
NAMES = st.sampled_from(
    ["age", "user_id", "genres", "genres.lengths", "num_candidates", "user.keys", "user.lookups", "item.lengths"]
) | st.text(max_size=8)


@st.composite
def changed_bytes(draw: Draw, good: bytes, *, first: int = 0) -> bytes:
    """Return bytes of which some are changed, those near `first` rather than others, or cut off, or added."""
    content = bytearray(good)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(first, min(first + 96, len(good) - 1)) | st.integers(0, len(good) - 1))
        content[at] = draw(st.integers(0, 255))
    end = draw(st.just(len(good)) | st.integers(0, len(good)))
    return bytes(content[:end]) + draw(st.just(b"") | st.binary(max_size=40))


def rename(draw: Draw, message: Any) -> None:
    draw(st.sampled_from(message.inputs)).name = draw(NAMES)


def retype(draw: Draw, message: Any) -> None:
    draw(st.sampled_from(message.inputs)).datatype = draw(DATATYPES)


def reshape(draw: Draw, message: Any) -> None:
    draw(st.sampled_from(message.inputs)).shape[:] = draw(SHAPES)


def damage(draw: Draw, message: Any) -> None:
    index = draw(st.integers(0, len(message.raw_input_contents) - 1))
    good = message.raw_input_contents[index] or b"\0"
    message.raw_input_contents[index] = draw(changed_bytes(good) | st.binary(max_size=64))


def renumber(draw: Draw, message: Any) -> None:
    """Put other numbers in the place of lengths, keys or ids."""
    index = draw(st.integers(0, min(len(message.inputs), len(message.raw_input_contents)) - 1))
    tensor = message.inputs[index]
    dtype = {"INT32": np.int32, "INT64": np.int64, "UINT64": np.uint64}.get(tensor.datatype, np.float32)
    size = len(message.raw_input_contents[index]) // np.dtype(dtype).itemsize
    numbers = draw(st.lists(NUMBERS, min_size=size, max_size=size))
    message.raw_input_contents[index] = np.array(numbers, dtype=np.int64).astype(dtype).tobytes()


def drop_or_repeat(draw: Draw, message: Any) -> None:
    field = draw(st.sampled_from([message.inputs, message.raw_input_contents]))
    index = draw(st.integers(0, len(field) - 1))
    if draw(st.booleans()) and len(field) > 1:
        del field[index]
    else:
        field.append(field[index])


def add_contents(draw: Draw, message: Any) -> None:
    """Give a tensor contents in typed form, beside or instead of the raw ones."""
    contents = draw(st.sampled_from(message.inputs)).contents
    contents.int_contents.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)))
    contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=4), max_size=4)))
    contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=4)))
    if draw(st.booleans()):
        del message.raw_input_contents[:]


def readdress(draw: Draw, message: Any) -> None:
    if draw(st.booleans()):
        message.model_name = draw(st.text(max_size=8))
    else:
        message.model_version = draw(st.text(max_size=70))


def ask_for_others(draw: Draw, message: Any) -> None:
    """Ask for outputs that there are not, or within a time that is none."""
    message.outputs.add(name=draw(NAMES))
    timeout = message.parameters["timeout"]
    if draw(st.booleans()):
        timeout.int64_param = draw(st.integers(-(2**63), -1) | st.integers(2**40, 2**63 - 1))
    else:
        timeout.string_param = draw(st.text(max_size=8))


CHANGES = [rename, retype, reshape, damage, renumber, drop_or_repeat, add_contents, readdress, ask_for_others]


@st.composite
def messages(draw: Draw, good: bytes) -> bytes:
    """Return a ModelInferRequest with a few changes, or of other bytes altogether."""
    if draw(st.integers(0, 9)) == 0:
        return bytes(draw(changed_bytes(good)))
    message = pb.ModelInferRequest.FromString(good)
    for change in draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3)):
        if message.raw_input_contents and message.inputs:
            change(draw, message)
    content: bytes = message.SerializeToString()
    return content


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container in a JSON value, with each of its keys."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places_in(value[key])


@st.composite
def bodies(draw: Draw, good: bytes) -> bytes:
    """Return a JSON body in which some values are others, or are not there, or that is no JSON."""
    if draw(st.integers(0, 4)) == 0:
        return bytes(draw(changed_bytes(good)))
    body = json.loads(good)
    for _ in range(draw(st.integers(1, 3))):
        places = list(places_in(body))
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        if draw(st.integers(0, 3)) == 0:
            del container[key]
        else:
            container[key] = draw(JSON)
    return json.dumps(body).encode()


@st.composite
def bodies_with_lengths(draw: Draw, good: bytes) -> tuple[bytes, str | None]:
    """Return a body, and the header that says how much of it is JSON: wrong, missing, or right before wrong bytes."""
    wrong = (
        st.none()
        | st.integers(-5, 3_000).map(str)
        | st.sampled_from(["", "x", "1e3", "\u00b2", "9" * 5_000, "0" * 5_000, "0" * 30 + "99999"])
    )
    if draw(st.booleans()):
        return draw(bodies(good)), draw(st.none() | wrong)
    body = json.loads(good)
    age = next(item for item in body["inputs"] if item["name"] == "age")
    del age["data"]
    age["parameters"] = {"binary_data_size": draw(st.just(4) | NUMBERS | JSON)}
    age["shape"] = draw(st.just([1]) | SHAPES | JSON)
    text = json.dumps(body).encode()
    content = text + draw(st.binary(min_size=4, max_size=4) | st.binary(max_size=12))
    return content, draw(st.just(str(len(text))) | wrong)


# How it is asked.


def by_grpc(address: str) -> tuple[Ask, grpc.Channel]:
    channel = grpc.insecure_channel(address)
    call = channel.unary_unary(INFER_METHOD)

    def ask(message: bytes) -> str:
        try:
            call(message, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "answered"

    return ask, channel


def by_stream(address: str) -> Ask:
    """Return what sends a frame on a connection of its own, and reads until the shard hangs up."""
    host, port = address.split(":")

    def ask(frame: bytes) -> str:
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as peer:
            received = b""
            with suppress(ConnectionError):
                peer.sendall(frame)
                peer.shutdown(socket.SHUT_WR)
                while piece := peer.recv(65_536):
                    received += piece
        return end_of(received)

    return ask


def end_of(received: bytes) -> str:
    """Return what the first frame of a shard says."""
    if not received:
        return "closed"
    kind, num_nets, shard, size_bytes, request = HEAD.unpack_from(received)
    body = memoryview(received)[HEAD.size : HEAD.size + size_bytes]
    if kind != Kind.ERROR:
        return "answered" if kind in (Kind.ANSWER, Kind.PING) else f"kind {kind}"
    status, _ = read_error(Frame(kind=kind, num_nets=num_nets, shard=shard, request=request, body=body))
    return next(code.name for code in grpc.StatusCode if code.value[0] == status)


# Shard 0 looks up three features of the user net, one of which is left out, and one of the item net.
USER_BAGS = LookupBags(np.zeros(0, dtype=np.uint64), np.zeros((2, 1), dtype=np.int32), only=(0, 2))
ITEM_BAGS = LookupBags(keys=np.array([0, 2**52, 0], dtype=np.uint64), lengths_LB=np.array([[2, 0, 1]], dtype=np.int32))


def shard_message(bundle_id: str) -> bytes:
    message = pb.ModelInferRequest(model_name="students-shard-0", model_version=bundle_id)
    for net, bags in (("user", USER_BAGS), ("item", ITEM_BAGS)):
        for name, datatype, values in (
            (f"{net}.keys", "UINT64", bags.keys),
            (f"{net}.lengths", "INT32", bags.lengths_LB),
            *([(f"{net}.lookups", "INT32", np.array(bags.only, dtype=np.int32))] if bags.only else []),
        ):
            message.inputs.add(name=name, datatype=datatype, shape=values.shape)
            message.raw_input_contents.append(values.tobytes())
    content: bytes = message.SerializeToString()
    return content


def ranker_message() -> bytes:
    message = pb.ModelInferRequest(model_name="students")
    for tensor in grpc_inputs(make_request()):
        message.inputs.append(tensor._get_tensor())
        message.raw_input_contents.append(tensor._get_content() or b"")
    content: bytes = message.SerializeToString()
    return content


@pytest.mark.parametrize("server", [0, 1], ids=["ranker", "shard"])
def test_malformed_messages_are_refused(serving: LocalServing, bundle: Path, server: int) -> None:
    address = (serving.grpc_address, serving.shard_addresses[0])[server]
    good = (ranker_message(), shard_message(serving.bundle_id))[server]
    ask, channel = by_grpc(address)
    with channel, watched(serving, bundle, server=server, ask=ask, good=good) as end:

        @many
        @given(message=messages(good))
        def send(message: bytes) -> None:
            end(ask(message))

        send()


def test_malformed_bodies_are_refused(serving: LocalServing, bundle: Path) -> None:
    url = f"{serving.rest_url}/v2/models/students/infer"
    good, typed = (json.dumps(one).encode() for one in (make_request(), typed_request()))
    with httpx.Client(trust_env=False, timeout=TIMEOUT_S) as client:

        def ask(body: bytes, *, length: str | None = None) -> str:
            headers = {} if length is None else {"inference-header-content-length": length.encode("latin-1")}
            response = client.post(url, content=body, headers=headers)
            assert response.status_code == 200 or isinstance(response.json()["error"], str)
            return "answered" if response.status_code == 200 else str(response.status_code)

        with watched(serving, bundle, server=0, ask=ask, good=good) as end:

            @many
            @given(request=bodies_with_lengths(good) | st.tuples(bodies(typed), st.none()))
            def send(request: tuple[bytes, str | None]) -> None:
                body, length = request
                end(ask(body, length=length))

            send()


def test_malformed_frames_are_refused(serving: LocalServing, bundle: Path) -> None:
    # Of a time in which each byte is 64, a long one is left whichever are changed.
    good = request_frame(
        {"user": USER_BAGS, "item": ITEM_BAGS},
        request=1,
        shard=0,
        bundle_id=serving.bundle_id,
        allowed_us=0x40 * (2**64 // 255),
    )
    ask = by_stream(serving.lookup_addresses[0])
    with watched(serving, bundle, server=1, ask=ask, good=good) as end:

        @many
        @given(frame=changed_bytes(good) | changed_bytes(good, first=HEAD.size + 40))
        def send(frame: bytes) -> None:
            end(ask(frame))

        send()
