"""Limits on one request: every protocol refuses it with the reason, whichever server refuses."""

import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from pods import Pod, Pods, resident_bytes, wait_for
from serving_requests import infer_by_grpc, make_request, typed_request
from tritonclient.utils import InferenceServerException

from exfm.errors import RequestError, ShardUnavailableError
from exfm.serving.oip.grpc.protobuf import INFER_METHOD
from exfm.serving.oip.rest.client import infer

pytestmark = pytest.mark.slow

SHARD_BYTES = 16 * 1024
"""Room for the golden query's pooled embeddings, and for what 250 candidates ask, but not for theirs."""

SMALL = {"limits": {"max_message_bytes": SHARD_BYTES}}
ONE_FAILURE = {"breaker": {"failures": 1}}


def start(
    bundle: Path, pods: Pods, *, ranker: dict[str, Any] | None = None, shard: dict[str, Any] | None = None
) -> Pod:
    shards = [pods.shard(bundle, number, settings=shard) for number in range(2)]
    started = pods.ranker(bundle, [one.lookup_address for one in shards], settings=ranker)
    started.wait_until_ready()
    return started


def refusals(ranker: Pod, body: dict[str, Any]) -> list[str]:
    """Return what a client hears by REST and by gRPC."""
    with pytest.raises(RequestError) as by_rest:
        infer(ranker.rest_url, "students", body)
    assert type(by_rest.value) is RequestError, "400"
    with pytest.raises(InferenceServerException) as by_grpc:
        infer_by_grpc(ranker.grpc_address, body)
    assert by_grpc.value.status() == "StatusCode.INVALID_ARGUMENT"
    return [str(by_rest.value), str(by_grpc.value)]


def test_more_values_than_max_ids_are_refused(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods, ranker={"limits": {"max_ids": 500}})
    for message in refusals(ranker, make_request(num_candidates=[130])):
        assert "max_ids is 500: send it in parts" in message
    by_rest, by_grpc = refusals(ranker, make_request(num_candidates=[1_000]))
    assert "commas, too many for its values; max_ids is 500: send it in parts" in by_rest
    assert "the inputs hold 1502 values" in by_grpc, "texts are counted before they are read"
    assert len(ranker.infer()["outputs"]) == 2


def test_more_typed_items_than_are_allowed_are_refused_before_they_are_looked_at(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods, ranker={"limits": {"max_candidates": 20, "max_ids": 50}})
    assert len(infer(ranker.rest_url, "students", typed_request())["outputs"]) == 2
    with pytest.raises(RequestError, match="the request has 21 candidates; max_candidates is 20: send it in parts"):
        infer(ranker.rest_url, "students", {"items": [None] * 21})
    with pytest.raises(RequestError, match="the inputs hold 60 values; max_ids is 50: send it in parts"):
        infer(ranker.rest_url, "students", {"items": [{}] * 20})


def test_a_body_larger_than_max_message_bytes_is_refused(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods, ranker={"limits": {"max_message_bytes": 4_096}})
    body = make_request() | {"id": "a" * 4_096}
    assert len(json.dumps(body)) > 4_096
    with pytest.raises(RequestError, match="the body is larger than max_message_bytes, 4096 B"):
        infer(ranker.rest_url, "students", body)
    assert httpx.post(f"{ranker.rest_url}/v2/models/students/infer", json=body).status_code == 413
    assert len(ranker.infer()["outputs"]) == 2


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_would_expand_beyond_the_bound_is_refused_before(bundle: Path, pods: Pods, encoding: str) -> None:
    ranker = start(bundle, pods, ranker={"limits": {"max_message_bytes": 4 * 2**20}})
    compressor = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    zeros = bytes(2**20)
    body = b"".join([*(compressor.compress(zeros) for _ in range(128)), compressor.flush()])
    before = resident_bytes(ranker.server.process.pid, at_most=True)
    for _ in range(2):
        response = httpx.post(
            f"{ranker.rest_url}/v2/models/students/infer", content=body, headers={"content-encoding": encoding}
        )
        assert response.status_code == 413
        assert "once expanded, is larger than max_message_bytes, 4194304 B" in response.json()["error"]
    assert resident_bytes(ranker.server.process.pid, at_most=True) - before < 32 * 2**20
    assert len(ranker.infer()["outputs"]) == 2


def test_a_message_that_would_expand_beyond_the_bound_is_refused(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods, ranker={"limits": {"max_message_bytes": 4 * 2**20}})
    before = resident_bytes(ranker.server.process.pid, at_most=True)
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(ranker.grpc_address, options=options, compression=grpc.Compression.Gzip) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER_METHOD)(bytes(128 * 2**20), timeout=30)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert resident_bytes(ranker.server.process.pid, at_most=True) - before < 32 * 2**20
    assert len(ranker.infer()["outputs"]) == 2


def test_a_message_that_would_become_gigabytes_is_refused_unread(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods)
    empty_inputs = b"\x2a\x00" * (16 * 2**20)
    before = resident_bytes(ranker.server.process.pid, at_most=True)
    with grpc.insecure_channel(ranker.grpc_address, options=[("grpc.max_send_message_length", -1)]) as channel:
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(INFER_METHOD)(empty_inputs, timeout=30)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "more than 16384 fields or" in caught.value.details()
    assert resident_bytes(ranker.server.process.pid, at_most=True) - before < 8 * len(empty_inputs)
    assert len(ranker.infer()["outputs"]) == 2


def test_what_asks_too_much_of_a_shard_is_the_clients_error_and_no_shards_failure(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods, ranker=ONE_FAILURE, shard=SMALL)
    for _ in range(3):
        for message in refusals(ranker, make_request(num_candidates=[250])):
            assert f"max_message_bytes is {SHARD_BYTES}" in message
            assert "send it in parts" in message
    assert len(ranker.infer()["outputs"]) == 2
    for shard in range(2):
        assert ranker.counted(f'exfm_ranker_missing_answers_total{{shard="{shard}"}}') == 0


def test_what_a_shard_does_not_even_read_is_refused_alone(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods, ranker=ONE_FAILURE, shard=SMALL)

    def ask_too_much() -> None:
        for message in refusals(ranker, make_request(num_candidates=[2_000])):
            assert str(SHARD_BYTES) in message
            assert "send it in parts" in message

    with ThreadPoolExecutor() as threads:
        too_much = threads.submit(ask_too_much)
        while not too_much.done():
            assert len(ranker.infer()["outputs"]) == 2
        too_much.result()
    for shard in range(2):
        assert ranker.counted(f'exfm_ranker_missing_answers_total{{shard="{shard}"}}') == 0
        assert ranker.counted(f'exfm_ranker_retried_lookups_total{{shard="{shard}"}}') == 0


def test_an_answer_too_large_for_the_ranker_is_refused_alone(bundle: Path, pods: Pods) -> None:
    ranker = start(bundle, pods, ranker=ONE_FAILURE | SMALL)
    for _ in range(3):
        for message in refusals(ranker, make_request(num_candidates=[500])):
            assert str(SHARD_BYTES) in message
            assert "send it in parts" in message
        assert len(ranker.infer()["outputs"]) == 2
    for shard in range(2):
        assert ranker.counted(f'exfm_ranker_missing_answers_total{{shard="{shard}"}}') == 0


def test_a_ranker_whose_scores_nobody_compared_yet_answers_none(bundle: Path, pods: Pods) -> None:
    shard = pods.shard(bundle, 0)
    ranker = pods.ranker(
        bundle, [shard.lookup_address, "127.0.0.1:1"], settings={"shards": {"when_shard_fails": "degrade"}}
    )
    wait_for(lambda: any("not ready after" in line for line in ranker.lines()))
    with pytest.raises(ShardUnavailableError, match="students is not ready"):
        ranker.infer()
    with pytest.raises(InferenceServerException) as caught:
        infer_by_grpc(ranker.grpc_address, make_request())
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
