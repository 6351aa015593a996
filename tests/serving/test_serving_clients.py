"""What becomes of clients that hold on to a connection, hang up, or get an error."""

import http.client
import json
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pods import Pod, Pods, wait_for
from serving_requests import infer_by_grpc, make_request
from tritonclient.utils import InferenceServerException

from exfm.errors import DeadlineError, RequestError
from exfm.serving.oip.rest.client import infer

pytestmark = pytest.mark.slow

URL = "/v2/models/students/infer"
PAST_UVICORNS_S = 6


@pytest.fixture
def ranker(bundle: Path, pods: Pods) -> Pod:
    started = pods.ranker(bundle, [pods.shard(bundle, number).lookup_address for number in range(2)])
    started.wait_until_ready()
    return started


def failed(pod: Pod, code: str) -> float:
    return pod.counted(f'exfm_failed_requests_total{{code="{code}"}}')


def test_each_answer_is_timed_once_by_either_protocol(bundle: Path, pods: Pods) -> None:
    shards = [pods.shard(bundle, number) for number in range(2)]
    ranker = pods.ranker(bundle, [shard.lookup_address for shard in shards])
    ranker.wait_until_ready()
    names = {"students": ranker, "students-shard-0": shards[0], "students-shard-1": shards[1]}

    def timed() -> list[float]:
        return [pod.counted(f'exfm_request_seconds_count{{model="{name}"}}') for name, pod in names.items()]

    before = timed()
    for _ in range(3):
        ranker.infer()
        infer_by_grpc(ranker.grpc_address, make_request())
        infer(ranker.rest_url, "students", make_request() | {"parameters": {"trace": True}})
    with pytest.raises(RequestError):
        infer(ranker.rest_url, "students", {"inputs": []})
    assert [after - count for after, count in zip(timed(), before, strict=True)] == [9, 9, 9]


def test_a_connection_that_is_idle_for_a_while_answers_again(ranker: Pod) -> None:
    connection = http.client.HTTPConnection(urlsplit(ranker.rest_url).netloc, timeout=30)
    connection.connect()
    connection.auto_open = 0  # one that is lost stays lost
    for pause_s in (PAST_UVICORNS_S, 0):
        connection.request("POST", URL, json.dumps(make_request()), {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200
        assert json.load(response)["model_name"] == "students"
        time.sleep(pause_s)
    connection.close()


def test_a_client_that_hangs_up_before_its_body_was_sent_leaves_no_trace_but_a_count(ranker: Pod) -> None:
    place = urlsplit(ranker.rest_url)
    with socket.create_connection((place.hostname, place.port or 0), timeout=30) as client:
        client.sendall(f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{".encode())
    wait_for(lambda: failed(ranker, "CANCELLED") == 1)
    assert ranker.infer()
    assert not [line for line in ranker.lines() if "Traceback" in line or "ERROR" in line]


def test_requests_that_end_in_an_error_are_counted_by_its_code_by_either_protocol(ranker: Pod) -> None:
    in_a_hurry = make_request() | {"parameters": {"timeout": 1}}
    with pytest.raises(DeadlineError):
        infer(ranker.rest_url, "students", in_a_hurry)
    with pytest.raises(InferenceServerException):
        infer_by_grpc(ranker.grpc_address, make_request(), timeout=1)
    with pytest.raises(RequestError):
        infer(ranker.rest_url, "students", {"inputs": []})
    assert (failed(ranker, "DEADLINE_EXCEEDED"), failed(ranker, "INVALID_ARGUMENT")) == (2, 1)
    assert ranker.infer()
    assert failed(ranker, "INTERNAL") == 0
