import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from serving_requests import (
    Scores,
    grpc_inputs,
    http_inputs,
    infer_by_grpc,
    make_request,
    offline_scores,
    scores_of,
    typed_request,
)

from exfm.artifact.bundle import BundleManifest
from exfm.models.offline import answer_request
from exfm.serving.local.serving import LocalServing

pytestmark = pytest.mark.slow

ONE_USER = make_request()
THREE_USERS = make_request(num_candidates=[2, 0, 3])
NO_CANDIDATES = make_request(num_candidates=[0])


def assert_same(scores: Scores, expected: Scores) -> None:
    assert list(scores) == list(expected)
    for task, values in expected.items():
        np.testing.assert_allclose(scores[task], values, atol=1e-3)


@pytest.mark.parametrize("body", [ONE_USER, THREE_USERS, NO_CANDIDATES], ids=["one", "three users", "no candidates"])
def test_every_client_gets_the_unsharded_models_scores(
    served: LocalServing, bundle: Path, body: dict[str, Any]
) -> None:
    expected = offline_scores(bundle, body)
    assert_same(scores_of(served.infer(body)), expected)
    assert_same(infer_by_grpc(served.grpc_address, body), expected)
    with tritonclient.http.InferenceServerClient(served.rest_url.removeprefix("http://")) as client:
        for binary in (True, False):
            result = client.infer("students", http_inputs(body, binary=binary))
            assert_same({task: result.as_numpy(task).tolist() for task in expected}, expected)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_a_compressed_request_has_the_same_answer(
    served: LocalServing, bundle: Path, algorithm: str, binary: bool
) -> None:
    with tritonclient.http.InferenceServerClient(served.rest_url.removeprefix("http://")) as client:
        result = client.infer(
            "students",
            http_inputs(THREE_USERS, binary=binary),
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
    expected = offline_scores(bundle, THREE_USERS)
    assert_same({task: result.as_numpy(task).tolist() for task in expected}, expected)


def test_a_request_that_a_person_typed_has_the_same_answer(served: LocalServing, tmp_path: Path, bundle: Path) -> None:
    typed = typed_request()
    answer = served.infer(typed | {"id": "mine", "outputs": [{"name": "like"}]})
    assert (answer["id"], list(scores_of(answer))) == ("mine", ["like"])
    assert scores_of(served.infer(typed)) == scores_of(served.infer(ONE_USER))
    (tmp_path / "typed.json").write_text(json.dumps(typed))
    assert_same(scores_of(answer_request(bundle, tmp_path / "typed.json")), offline_scores(bundle, ONE_USER))


def test_kserves_own_clients_get_the_unsharded_models_scores(served: LocalServing, bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "kserve_client.py"), served.rest_url, served.grpc_address],
        input=json.dumps(THREE_USERS), capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = json.loads(done.stdout)
    assert len(answers) == 4
    for scores in answers.values():
        assert_same(scores, offline_scores(bundle, THREE_USERS))


def test_an_answer_names_its_bundle_and_is_not_degraded(served: LocalServing, bundle: Path) -> None:
    bundle_id = BundleManifest.read(bundle).bundle_id
    answer = served.infer(ONE_USER | {"id": "mine"})
    assert answer["model_version"] == bundle_id
    assert answer["id"] == "mine"
    assert answer["parameters"] == {"degraded": False, "degraded_tables": ""}
    with tritonclient.grpc.InferenceServerClient(served.grpc_address) as client:
        response = client.infer("students", grpc_inputs(ONE_USER), request_id="mine").get_response()
    assert (response.model_version, response.id) == (bundle_id, "mine")
    assert response.parameters["degraded"].WhichOneof("parameter_choice") == "bool_param"
    assert not response.parameters["degraded"].bool_param
    assert response.parameters["degraded_tables"].string_param == ""


def test_an_answer_on_a_kept_connection_waits_for_no_acknowledgement(served: LocalServing) -> None:
    seconds = []
    with httpx.Client() as client:
        for _ in range(50):
            began_s = time.perf_counter()
            assert client.post(f"{served.rest_url}/v2/models/students/infer", json=ONE_USER).status_code == 200
            seconds.append(time.perf_counter() - began_s)
    assert min(seconds[10:]) < 0.035  # Linux delays acknowledgements by 40 ms, but not a new connection's first ones


def test_a_client_gets_only_the_outputs_that_it_asks_for(served: LocalServing) -> None:
    assert list(scores_of(served.infer(ONE_USER | {"outputs": [{"name": "love"}]}))) == ["love"]
    only_love = [tritonclient.grpc.InferRequestedOutput("love")]
    assert list(infer_by_grpc(served.grpc_address, ONE_USER, outputs=only_love)) == ["love"]


def test_the_bundle_id_is_a_version_that_may_be_asked_for(served: LocalServing, bundle: Path) -> None:
    url = f"{served.rest_url}/v2/models/students/versions/{served.bundle_id}"
    assert httpx.post(f"{url}/infer", json=ONE_USER).status_code == 200
    assert httpx.get(f"{url}/ready").json() == {"name": "students", "ready": True}
    assert infer_by_grpc(served.grpc_address, ONE_USER, model_version=served.bundle_id)


def test_metadata_is_whole_by_both_protocols(served: LocalServing) -> None:
    metadata = httpx.get(f"{served.rest_url}/v2/models/students").json()
    assert metadata["versions"] == [served.bundle_id]
    assert metadata["platform"] == "exfm"
    assert {"name": "user_id", "datatype": "INT64", "shape": [-1]} in metadata["inputs"]
    assert metadata["outputs"] == [{"name": task, "datatype": "FP32", "shape": [-1]} for task in ("like", "love")]
    with tritonclient.grpc.InferenceServerClient(served.grpc_address) as client:
        by_grpc = client.get_model_metadata("students", as_json=True)
    assert by_grpc == json.loads(json.dumps(metadata).replace("[-1]", '["-1"]'))  # protobuf's JSON quotes int64


def test_a_shards_metadata_names_all_that_rankers_may_send(served: LocalServing) -> None:
    metadata = httpx.get(f"{served.shard_urls[0]}/v2/models/students-shard-0").json()
    for name, datatype, shape in (("keys", "UINT64", [-1]), ("lengths", "INT32", [-1, -1]), ("lookups", "INT32", [-1])):
        assert {"name": f"item.{name}", "datatype": datatype, "shape": shape} in metadata["inputs"]


def test_the_probes_answer_by_both_protocols(served: LocalServing) -> None:
    for path in ("health/live", "health/ready", "models/students/ready", "models"):
        assert httpx.get(f"{served.rest_url}/v2/{path}").status_code == 200
    for address in (served.grpc_address, *served.shard_addresses):
        with tritonclient.grpc.InferenceServerClient(address) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
    with tritonclient.grpc.InferenceServerClient(served.grpc_address) as client:
        assert client.is_model_ready("students")


def test_servers_listen_on_loopback_only(served: LocalServing) -> None:
    processes = {server.process.pid for server in served.servers}
    found = listening_addresses(processes)
    assert len(found) == 8  # REST and gRPC of three servers, and streams of two
    assert set(found) == {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, as IPv4 and mapped into IPv6


def listening_addresses(processes: set[int]) -> list[str]:
    """Return the local addresses, as the kernel writes them, on which these processes listen for TCP."""
    sockets = {
        str(link.readlink()) for pid in processes for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()
    }
    listen, found = "0A", []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == listen and f"socket:[{fields[9]}]" in sockets:
                found.append(fields[1].split(":")[0])
    return found
