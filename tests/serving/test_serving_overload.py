"""What callers see of servers that are asked for more than they can answer."""

import asyncio
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
import tritonclient.grpc.aio
from pods import Pod, Pods, wait_for
from serving_requests import Scores, grpc_inputs, make_request, never, offline_scores, scores_of
from tritonclient.utils import InferenceServerException

from exfm.errors import OverloadedError
from exfm.serving.oip.grpc.protobuf import INFER_METHOD
from exfm.serving.oip.rest.client import infer

pytestmark = pytest.mark.slow

NUM_AT_ONCE = 300
BOUND = 8
REQUEST = make_request(num_candidates=[100])
LONG_MS = 30_000


def at_once(num_requests: int) -> dict[str, Any]:
    """Return the settings of a server that takes so many requests at once."""
    return {"limits": {"max_concurrency": num_requests}}


def start(bundle: Path, pods: Pods, *, shard: dict[str, Any] | None = None, **ranker: Any) -> tuple[Pod, list[Pod]]:
    """Return a ranker that is ready, and its shards."""
    shards = [pods.shard(bundle, number, settings=shard) for number in range(2)]
    started = pods.ranker(
        bundle, [one.lookup_address for one in shards], settings={"deadlines": {"default_ms": LONG_MS}, **ranker}
    )
    started.wait_until_ready()
    return started, shards


Ask = Callable[[], Awaitable[Scores | str]]
"""Returns the scores of a request, or how it was refused."""


@asynccontextmanager
async def by_rest(ranker: Pod) -> AsyncIterator[Ask]:
    async def ask_once() -> Scores | str:
        response = await client.post(f"{ranker.rest_url}/v2/models/students/infer", json=REQUEST)
        if response.status_code == 200:
            return scores_of(response.json())
        return f"{response.status_code}, again after {response.headers['retry-after']} s"

    limits = httpx.Limits(max_connections=NUM_AT_ONCE)
    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as client:
        yield ask_once


@asynccontextmanager
async def by_grpc(ranker: Pod) -> AsyncIterator[Ask]:
    inputs = grpc_inputs(REQUEST)

    async def ask_once() -> Scores | str:
        try:
            result = await client.infer("students", inputs, client_timeout=60)
        except InferenceServerException as error:
            return str(error.status())
        return {output.name: result.as_numpy(output.name).tolist() for output in result.get_response().outputs}

    async with tritonclient.grpc.aio.InferenceServerClient(ranker.grpc_address) as client:
        yield ask_once


PROTOCOLS = {
    "REST": (by_rest, "429, again after 1 s"),
    "gRPC": (by_grpc, "StatusCode.RESOURCE_EXHAUSTED"),
}


@pytest.mark.parametrize(("connect", "refusal"), PROTOCOLS.values(), ids=PROTOCOLS)
def test_of_far_too_many_requests_each_is_answered_rightly_or_refused_at_once(
    bundle: Path, pods: Pods, connect: Callable[[Pod], AbstractAsyncContextManager[Ask]], refusal: str
) -> None:
    ranker, _ = start(bundle, pods, **at_once(BOUND))

    async def ask_all_at_once() -> list[Scores | str]:
        async with connect(ranker) as ask_once, asyncio.timeout(60):
            return await asyncio.gather(*(ask_once() for _ in range(NUM_AT_ONCE)))

    found = asyncio.run(ask_all_at_once())
    refused = [one for one in found if isinstance(one, str)]
    answered = [one for one in found if not isinstance(one, str)]
    assert set(refused) == {refusal}
    assert len(answered) >= BOUND
    expected = offline_scores(bundle, REQUEST)
    for scores in answered:
        for task, values in expected.items():
            assert scores[task] == pytest.approx(values, abs=1e-5)
    assert ranker.counted('exfm_refused_requests_total{model="students"}') == len(refused)
    assert scores_of(ranker.infer()).keys() == expected.keys()


@contextmanager
def stopped(pod: Pod) -> Iterator[None]:
    """Hold a server still while a block runs."""
    pod.server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        pod.server.process.send_signal(signal.SIGCONT)


def connect_without_a_body(ranker: Pod) -> socket.socket:
    """Return the connection of a request of which no more than the headers comes."""
    url = urlsplit(ranker.rest_url)
    client = socket.create_connection((url.hostname, url.port or 0), timeout=30)
    client.sendall(b"POST /v2/models/students/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
    return client


def test_while_all_places_are_taken_requests_are_refused_but_health_and_metrics_are_told(
    bundle: Path, pods: Pods
) -> None:
    ranker, shards = start(bundle, pods, **at_once(2))
    expected = offline_scores(bundle, make_request())
    is_over = Event()

    with ThreadPoolExecutor(3) as pool:
        with stopped(shards[1]):
            asked = {pool.submit(infer, ranker.rest_url, "students", make_request(), timeout_s=60) for _ in range(3)}
            [refused], waiting = futures.wait(asked, return_when=futures.FIRST_COMPLETED)
            assert isinstance(refused.exception(), OverloadedError)
            with pytest.raises(OverloadedError, match="has 2 requests under way, and max_concurrency is 2: try again"):
                ranker.infer()
            with (
                tritonclient.grpc.InferenceServerClient(ranker.grpc_address) as client,
                pytest.raises(InferenceServerException, match="max_concurrency is 2") as caught,
            ):
                client.infer("students", grpc_inputs(make_request()))
            assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
            with grpc.insecure_channel(ranker.grpc_address) as channel, pytest.raises(grpc.RpcError) as without_message:
                channel.stream_unary(INFER_METHOD)(never(is_over), timeout=10)
            assert without_message.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, "its message is not waited for"
            is_over.set()
            with connect_without_a_body(ranker) as without_a_body:
                assert without_a_body.recv(1_000).startswith(b"HTTP/1.1 429 "), "its body is not waited for"
            assert ranker.is_ready()
            with tritonclient.grpc.InferenceServerClient(ranker.grpc_address) as client:
                assert client.is_model_ready("students")
                assert client.get_model_metadata("students").name == "students"
        for answer in waiting:
            for task, values in expected.items():
                assert scores_of(answer.result())[task] == pytest.approx(values, abs=1e-5)
    assert ranker.infer()


async def outcomes_of(ranker: Pod, *, num_requests: int) -> Counter[str]:
    """Return how many of some requests, sent at once, ended in which way."""
    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        url = f"{ranker.rest_url}/v2/models/students/infer"
        responses = await asyncio.gather(*(client.post(url, json=REQUEST) for _ in range(num_requests)))
    return Counter(
        "degraded" if one.status_code == 200 and one.json()["parameters"]["degraded"] else str(one.status_code)
        for one in responses
    )


def num_refused(shards: list[Pod]) -> float:
    """Return how many lookups shards have refused."""
    return sum(
        shard.counted(f'exfm_refused_requests_total{{model="students-shard-{number}"}}')
        for number, shard in enumerate(shards)
    )


@pytest.mark.parametrize(("when_shard_fails", "ends"), [("fail", {"200", "429"}), ("degrade", {"200", "degraded"})])
def test_a_shard_that_refuses_is_an_overload_or_a_missing_shard(
    bundle: Path, pods: Pods, when_shard_fails: str, ends: set[str]
) -> None:
    ranker, shards = start(
        bundle, pods, shard=at_once(1), **at_once(100), shards={"when_shard_fails": when_shard_fails}
    )

    def flood() -> bool:
        found = asyncio.run(outcomes_of(ranker, num_requests=100))
        assert found.keys() <= ends
        return found.keys() == ends

    wait_for(flood)
    assert num_refused(shards) > 0
    assert ranker.counted('exfm_refused_requests_total{model="students"}') == 0
    assert ranker.infer()["parameters"]["degraded"] is False


def test_a_ranker_becomes_ready_though_another_besieges_its_shards(bundle: Path, pods: Pods) -> None:
    first, shards = start(bundle, pods, shard=at_once(1), **at_once(100))
    is_over = Event()

    def besiege() -> None:
        while not is_over.is_set():
            asyncio.run(outcomes_of(first, num_requests=100))

    with ThreadPoolExecutor(1) as pool:
        siege = pool.submit(besiege)
        try:
            wait_for(lambda: num_refused(shards) > 0)
            second = pods.ranker(bundle, [one.lookup_address for one in shards])
            second.wait_until_ready()
        finally:
            is_over.set()
        siege.result()
    assert scores_of(second.infer()).keys() == offline_scores(bundle, REQUEST).keys()


def test_callers_that_give_up_leave_no_place_taken(bundle: Path, pods: Pods) -> None:
    ranker, shards = start(bundle, pods, **at_once(2))
    with (
        tritonclient.grpc.InferenceServerClient(ranker.grpc_address) as client,
        ThreadPoolExecutor(2) as pool,
        stopped(shards[1]),
    ):
        given_up = [
            pool.submit(client.infer, "students", grpc_inputs(make_request()), client_timeout=0.5) for _ in range(2)
        ]
        for one in given_up:
            with pytest.raises(InferenceServerException) as caught:
                one.result()
            assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"  # the client's own, or the ranker's
    wait_for(lambda: shards[1].is_ready())
    assert ranker.infer()
    assert ranker.counted('exfm_refused_requests_total{model="students"}') == 0
