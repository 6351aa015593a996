"""Spans that servers export to an OTLP collector: off unless there is one, then one tree a request."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pods import Pods
from serving_requests import grpc_inputs, make_request, scores_of

from exfm.serving.local.processes import Start
from exfm.serving.local.serving import LocalServing, serve_local
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.spans import ENDPOINTS, Spans

pytestmark = pytest.mark.slow

BODY = make_request()
PARENT = "00f067aa0ba902b7"
STATE = "vendor=a,other=b"
SERVERS = {"students", "students-shard-0", "students-shard-1"}


class Collector:
    """Keeps the spans that come by OTLP, by the server that sent them."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # http.server's name
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    names = {one.key: one.value.string_value for one in resource.resource.attributes}
                    spans = [span for scope in resource.scope_spans for span in scope.spans]
                    collector.spans += [(names["service.name"], span) for span in spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def of_trace(self, trace_id: str, *, servers: set[str]) -> dict[str, list[Any]]:
        """Return a trace's spans by server, once there are those of all requests."""
        give_up_s = time.monotonic() + 20
        while time.monotonic() < give_up_s:
            found: dict[str, list[Any]] = {}
            for service, span in list(self.spans):
                if span.trace_id.hex() == trace_id:
                    found.setdefault(service, []).append(span)
            if all(any(span.name == "infer" for span in found.get(server, [])) for server in servers):
                return found
            time.sleep(0.05)
        raise AssertionError(f"no spans of trace {trace_id} of all of {servers}")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def observed(bundle: Path, collector: Collector, start_server: Start) -> Iterator[LocalServing]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(ENDPOINTS[0], f"http://127.0.0.1:{collector.server.server_address[1]}")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        environment.setenv("NO_PROXY", "127.0.0.1")
        with serve_local(bundle, start=start_server) as serving:
            yield serving


def check(found: dict[str, list[Any]]) -> None:
    """Assert that the client's span is the ranker's parent, that one the shards', and each the parent of its layers."""
    [ranker] = [span for span in found["students"] if span.name == "infer"]
    assert ranker.parent_span_id.hex() == PARENT
    for server, spans in found.items():
        [request] = [span for span in spans if span.name == "infer"]
        assert request.trace_state == STATE
        if server != "students":
            assert request.parent_span_id == ranker.span_id
        layers = [span for span in spans if span is not request]
        expected = {Layer.DENSE, Layer.ENCODE, "shard 0", "shard 1"} if server == "students" else {Layer.EMBEDDING}
        assert expected <= {layer.name for layer in layers}
        for layer in layers:
            assert layer.parent_span_id == request.span_id
            assert request.start_time_unix_nano <= layer.start_time_unix_nano <= layer.end_time_unix_nano
            assert layer.end_time_unix_nano <= request.end_time_unix_nano


def test_a_sampled_request_by_grpc_is_one_tree_over_all_servers(observed: LocalServing, collector: Collector) -> None:
    headers = {"traceparent": f"00-{'1' * 32}-{PARENT}-01", "tracestate": STATE}
    with tritonclient.grpc.InferenceServerClient(observed.grpc_address) as client:
        response = client.infer("students", grpc_inputs(BODY), headers=headers).get_response()
    assert "trace" not in response.parameters
    check(collector.of_trace("1" * 32, servers=SERVERS))


def test_a_sampled_request_by_rest_is_one_tree_over_all_servers(observed: LocalServing, collector: Collector) -> None:
    url = f"{observed.rest_url}/v2/models/students/infer"
    first, second = STATE.split(",")  # as two headers, which the standard allows
    headers = [("traceparent", f"00-{'2' * 32}-{PARENT}-01"), ("tracestate", first), ("tracestate", second)]
    answer = httpx.post(url, json=BODY, headers=headers).json()
    assert "trace" not in answer["parameters"]
    assert scores_of(answer) == scores_of(observed.infer(BODY))
    check(collector.of_trace("2" * 32, servers=SERVERS))


def test_a_refused_request_is_a_span_with_its_error(observed: LocalServing, collector: Collector) -> None:
    url, headers = f"{observed.rest_url}/v2/models/students/infer", {"traceparent": f"00-{'3' * 32}-{PARENT}-01"}
    assert httpx.post(url, json={"inputs": []}, headers=headers).status_code == 400
    [request] = [one for one in collector.of_trace("3" * 32, servers={"students"})["students"] if one.name == "infer"]
    assert request.status.code == 2
    assert "is missing" in request.status.message


def test_requests_that_are_not_sampled_or_whose_header_is_malformed_make_no_span(
    observed: LocalServing, collector: Collector
) -> None:
    url = f"{observed.rest_url}/v2/models/students/infer"
    for traceparent in (f"00-{'4' * 32}-{PARENT}-00", "4" * 32, ""):
        assert httpx.post(url, json=BODY, headers={"traceparent": traceparent}).status_code == 200
    assert observed.infer(BODY)
    headers = {"traceparent": f"00-{'5' * 32}-{PARENT}-01"}
    assert httpx.post(url, json=BODY, headers=headers).status_code == 200
    collector.of_trace("5" * 32, servers=SERVERS)  # which came after the others
    assert {span.trace_id.hex()[0] for _, span in collector.spans} <= set("12356")


def test_a_shard_begins_no_trace_of_its_own_where_the_sampler_chooses_requests(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, start_server: Start
) -> None:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    monkeypatch.setenv(ENDPOINTS[0], f"http://127.0.0.1:{collector.server.server_address[1]}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        with serve_local(bundle, start=start_server) as serving:
            for _ in range(20):
                serving.infer(BODY)
        spans = list(collector.spans)  # servers that end export the last ones
    finally:
        collector.server.shutdown()
        collector.server.server_close()
        thread.join()
    traces = {server: {span.trace_id for name, span in spans if name == server} for server in SERVERS}
    assert 0 < len(traces["students"]) < 20
    assert traces["students-shard-0"] == traces["students-shard-1"] == traces["students"]


def test_a_ranker_without_spans_carries_a_trace_on_to_shards(
    bundle: Path, pods: Pods, monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with monkeypatch.context() as of_shards:
        of_shards.setenv(ENDPOINTS[0], f"http://127.0.0.1:{collector.server.server_address[1]}")
        shards = [pods.shard(bundle, shard) for shard in range(2)]
    ranker = pods.ranker(bundle, [shard.lookup_address for shard in shards])
    ranker.wait_until_ready()
    url = f"{ranker.rest_url}/v2/models/students/infer"
    for traceparent in ("\xe9", f"00-{'8' * 32}-{PARENT}-00", f"00-{'6' * 32}-{PARENT}-01"):
        headers = {b"traceparent": traceparent.encode("latin-1"), b"tracestate": STATE.encode()}
        assert httpx.post(url, json=BODY, headers=headers).status_code == 200, traceparent
    found = collector.of_trace("6" * 32, servers=SERVERS - {"students"})  # which came after the others
    assert found.keys() == SERVERS - {"students"}
    for spans in found.values():
        [request] = [span for span in spans if span.name == "infer"]
        assert (request.parent_span_id.hex(), request.trace_state) == (PARENT, STATE)
    assert not collector.of_trace("8" * 32, servers=set())


def test_without_an_endpoint_there_are_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert Spans.from_environment(service="students", begins_traces=True) is None
