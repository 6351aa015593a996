"""Traced requests on real servers, by every protocol."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc
from serving_requests import grpc_inputs, make_request, scores_of

from exfm.artifact.bundle import BundleManifest, draft_bundle, seal_bundle
from exfm.errors import RequestError
from exfm.serving.local.processes import Start
from exfm.serving.local.serving import LocalServing, serve_local
from exfm.serving.profiler.breakdown import Breakdown, Layer, Traced

pytestmark = pytest.mark.slow

BODY = make_request()
TRACED = BODY | {"parameters": {"trace": True}}

OF_A_RANKER = {
    Layer.DESERIALIZE, Layer.ENCODE, Layer.ROUTE, Layer.BOTTOM, Layer.DENSE, Layer.WAIT, Layer.SERIALIZE,
}  # fmt: skip
OF_LINKS = {Layer.SERIALIZE_REQUESTS, Layer.DESERIALIZE_ANSWERS}
OF_A_SHARD = {Layer.DESERIALIZE, Layer.EMBEDDING, Layer.SERIALIZE}


def traced_by_grpc(serving: LocalServing, body: dict[str, Any]) -> Breakdown:
    with tritonclient.grpc.InferenceServerClient(serving.grpc_address) as client:
        response = client.infer("students", grpc_inputs(body), parameters={"trace": True}).get_response()
    return Breakdown.from_json(response.parameters["trace"].string_param)


def check(told: Breakdown) -> None:
    """Assert that the layers of a sharded request are there and that all times fit into each other."""
    assert set(told.layers) - {Layer.QUEUE} == OF_A_RANKER | OF_LINKS
    assert list(told.shards) == [0, 1]
    for shard in told.shards.values():
        assert set(shard.server.layers) - {Layer.QUEUE} == OF_A_SHARD
        assert 0 < shard.server.total_ns <= shard.wall_ns <= told.total_ns
        assert shard.network_ns > 0
    for server in (told, *(shard.server for shard in told.shards.values())):
        assert sum(spent.wall_ns for spent in server.layers.values()) + server.rest_ns == server.total_ns
        assert sum(spent.cpu_ns for spent in server.layers.values()) <= server.process_cpu_ns
        assert all(spent.cpu_ns <= spent.wall_ns for spent in server.layers.values())


def test_a_traced_answer_tells_every_layer_of_ranker_and_shards(served: LocalServing) -> None:
    told = traced_by_grpc(served, BODY)
    check(told)
    assert all(Layer.QUEUE in server.layers for server in (told, *(shard.server for shard in told.shards.values())))


def test_a_trace_by_rest_is_the_same_and_changes_no_score(served: LocalServing) -> None:
    answer = served.infer(TRACED)
    check(Breakdown.from_json(answer["parameters"]["trace"]))
    plain = served.infer(BODY)
    assert scores_of(answer) == scores_of(plain)
    assert "trace" not in plain["parameters"]


def test_a_trace_comes_beside_binary_data(served: LocalServing) -> None:
    body = TRACED | {"parameters": {"trace": True, "binary_data_output": True}}
    response = httpx.post(f"{served.rest_url}/v2/models/students/infer", json=body)
    length = int(response.headers["inference-header-content-length"])
    check(Breakdown.from_json(json.loads(response.content[:length])["parameters"]["trace"]))


def test_cpu_of_all_threads_grows_by_what_a_request_took(served: LocalServing) -> None:
    first, second = traced_by_grpc(served, BODY), traced_by_grpc(served, BODY)
    grown_ns = second.process_cpu_ns - first.process_cpu_ns
    assert grown_ns > sum(spent.cpu_ns for spent in second.layers.values())


@pytest.mark.parametrize("counts", [[0], [2, 0, 3]])
def test_requests_without_candidates_or_of_many_users_are_traced_too(served: LocalServing, counts: list[int]) -> None:
    check(traced_by_grpc(served, make_request(num_candidates=counts)))


@pytest.mark.parametrize("value", ["yes", 1])
def test_another_value_of_the_parameter_is_refused(served: LocalServing, value: str | int) -> None:
    with pytest.raises(RequestError, match="parameter 'trace' is "):
        served.infer(BODY | {"parameters": {"trace": value}})


@pytest.fixture(scope="module")
def unsharded(bundle: Path, start_server: Start) -> Iterator[LocalServing]:
    with serve_local(bundle, is_sharded=False, start=start_server) as serving:
        yield serving


def test_a_ranker_that_holds_all_tables_looks_up_by_itself(unsharded: LocalServing) -> None:
    told = traced_by_grpc(unsharded, BODY)
    assert set(told.layers) - {Layer.QUEUE} == OF_A_RANKER | {Layer.EMBEDDING}
    assert told.shards == {}


def profile(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a program."""
    program = [sys.executable, "-c", "from exfm.cli.main import main; main()", "profile", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_the_command_prints_draws_and_keeps_all_requests(served: LocalServing, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "profile.png"
    done = profile(str(bundle), "--address", served.grpc_address, "--num-requests", "20", "--out", str(out))
    assert done.returncode == 0, done.stderr
    for words in ("dense bottom", "embedding", "RPC service", "shard 1", "20 requests, one at a time"):
        assert words in done.stdout
    assert out.read_bytes().startswith(b"\x89PNG")
    requests = json.loads(out.with_suffix(".json").read_text())["requests"]
    for one in [Traced.parse(request, source="the file") for request in requests]:
        check(one.ranker)
        assert one.client_ns > one.ranker.total_ns


def test_the_command_tells_nothing_of_a_ranker_that_serves_another_bundle(
    served: LocalServing, bundle: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(bundle, tmp_path / "other")
    old = BundleManifest.read(other)
    seal_bundle(
        other,
        draft_bundle(
            name=old.name, schema=old.feature_schema, network=old.network, plan=old.plan, lineage={"copied": "once"}
        ),
    )
    done = profile(str(other), "--address", served.grpc_address, "--out", str(tmp_path / "profile.png"))
    assert done.returncode == 3
    assert "did not answer (FAILED_PRECONDITION)" in done.stderr
    assert not (tmp_path / "profile.png").exists()


def test_the_command_says_that_nobody_answers(bundle: Path, tmp_path: Path) -> None:
    done = profile(str(bundle), "--address", "127.0.0.1:1", "--out", str(tmp_path / "profile.png"))
    assert done.returncode == 3
    assert done.stderr.startswith("exfm: 127.0.0.1:1 did not answer (UNAVAILABLE)")
    assert "\n" not in done.stderr.strip()
