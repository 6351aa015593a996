"""When a server starts to say that it is ready, and when it stops to."""

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
from pods import Load, Pod, Pods, free_ports, wait_for
from serving_requests import make_request, offline_scores, scores_of

from exfm.artifact.bundle import GOLDEN_REQUEST, GOLDEN_RESPONSE, BundleManifest, draft_bundle, seal_bundle
from exfm.artifact.manifest import read_json, write_json
from exfm.errors import ServingError, ShardUnavailableError
from exfm.models.config import Precision
from exfm.serving.local.processes import Start
from exfm.serving.local.serving import serve_local
from exfm.serving.ranker.readiness import check_scores

NOBODY = ["127.0.0.1:1", "127.0.0.1:1"]


def sealed_again(bundle: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """Return a copy of a bundle with something changed, as if it had been exported so."""
    shutil.copytree(bundle, folder)
    change(folder)
    old = BundleManifest.read(folder, verify=False)
    seal_bundle(
        folder,
        draft_bundle(
            name=old.name, schema=old.feature_schema, network=old.network, plan=old.plan, lineage={"copied": "once"}
        ),
    )
    return folder


def move_a_score(folder: Path) -> None:
    response = read_json(folder / GOLDEN_RESPONSE)
    response["outputs"][1]["data"][2] += 0.002
    write_json(folder / GOLDEN_RESPONSE, response)


def start_shards(pods: Pods, bundle: Path, **options: Any) -> list[str]:
    return [pods.shard(bundle, shard, **options).lookup_address for shard in range(2)]


@pytest.mark.parametrize(("precision", "most"), [("fp32", 0.001), ("bf16", 0.02), ("int8", 0.02)])
def test_scores_may_differ_by_so_much(precision: Precision, most: float) -> None:
    found = {"like": np.array([0.5, 0.2], dtype=np.float32), "love": np.array([0.1, 0.9], dtype=np.float32)}
    near, far = ({"like": [0.5, 0.2], "love": [0.1, 0.9 + times * most]} for times in (0.9, 1.1))
    assert check_scores(found, expected=near, precision=precision) == pytest.approx(0.9 * most, rel=1e-3)
    with pytest.raises(ServingError, match=r"task 'love' .* candidate 1 is scored 0\.900000, expected 0\.9") as caught:
        check_scores(found, expected=far, precision=precision)
    assert ("set dense_precision to 'fp32'" in str(caught.value)) is (precision != "fp32")


@pytest.mark.parametrize("scores", [[0.5], [], [0.5, float("nan")]])
def test_a_score_that_is_missing_or_nan_disagrees(scores: list[float]) -> None:
    with pytest.raises(ServingError, match="task 'like'"):
        check_scores({"like": np.array(scores, dtype=np.float32)}, expected={"like": [0.5, 0.2]}, precision="fp32")
    with pytest.raises(ServingError, match="task 'like' of the golden query has 0 scores, expected 2"):
        check_scores({}, expected={"like": [0.5, 0.2]}, precision="fp32")


@pytest.mark.slow
def test_a_ranker_is_ready_once_its_shards_gave_the_golden_scores_and_stays_so(bundle: Path, pods: Pods) -> None:
    ports = free_ports(2)
    ranker = pods.ranker(bundle, [f"127.0.0.1:{port}" for port in ports])
    wait_for(lambda: any(re.search(r"not ready after \d+ s: shard [01] at", line) for line in ranker.lines()))
    assert httpx.get(f"{ranker.rest_url}/v2/health/live").status_code == 200
    response = httpx.get(f"{ranker.rest_url}/v2/health/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False})
    assert httpx.get(f"{ranker.rest_url}/v2/models/students/ready").status_code == 503
    with tritonclient.grpc.InferenceServerClient(ranker.grpc_address) as client:
        assert not client.is_server_ready()
        assert not client.is_model_ready("students")

    shards = [pods.shard(bundle, shard, port=port) for shard, port in enumerate(ports)]
    ranker.wait_until_ready()
    for shard in shards:
        assert shard.num_lookups() >= 1
        shard.server.process.kill()
        shard.server.process.wait()
    with pytest.raises(ShardUnavailableError):
        ranker.infer()
    assert ranker.is_ready()
    assert not any("Traceback" in line for line in ranker.lines())


@pytest.mark.slow
def test_waiting_for_shards_is_logged_a_few_times_only(bundle: Path, pods: Pods) -> None:
    ranker = pods.ranker(bundle, NOBODY)
    wait_for(lambda: any("not ready after" in line for line in ranker.lines()))
    time.sleep(3)
    assert sum("not ready after" in line for line in ranker.lines()) == 1


@pytest.mark.slow
def test_a_ranker_whose_shards_score_otherwise_ends_with_one_line_about_it(
    bundle: Path, pods: Pods, tmp_path: Path
) -> None:
    moved = sealed_again(bundle, tmp_path / "moved", move_a_score)
    ranker = pods.ranker(moved, start_shards(pods, moved))
    assert ranker.exit_code() == 3
    expected = read_json(moved / GOLDEN_RESPONSE)["outputs"][1]["data"][2]
    assert ranker.lines()[-1].startswith(
        f"error: task 'love' of the golden query: candidate 2 is scored {expected - 0.002:.6f}, "
        f"expected {expected:.6f} to 0.001"
    )


@pytest.mark.slow
def test_servers_that_score_otherwise_are_not_served_locally(bundle: Path, tmp_path: Path, start_server: Start) -> None:
    moved = sealed_again(bundle, tmp_path / "moved", move_a_score)
    with (
        pytest.raises(ServingError, match=r"the ranker ended with exit code 3(.|\n)*task 'love'"),
        serve_local(moved, start=start_server),
    ):
        pass


@pytest.mark.slow
def test_a_ranker_whose_shards_hold_another_bundle_ends_with_one_line_about_it(
    bundle: Path, pods: Pods, tmp_path: Path
) -> None:
    other = sealed_again(bundle, tmp_path / "other", lambda folder: None)
    ranker = pods.ranker(bundle, start_shards(pods, other))
    assert ranker.exit_code() == 3
    last = ranker.lines()[-1]
    assert last.startswith("error: shard ")
    assert BundleManifest.read(bundle).bundle_id in last
    assert BundleManifest.read(other).bundle_id in last


@pytest.mark.slow
def test_a_bundle_without_golden_scores_is_ready_once_all_shards_answer(
    bundle: Path, pods: Pods, tmp_path: Path
) -> None:
    plain = sealed_again(bundle, tmp_path / "plain", lambda folder: shutil.rmtree(folder / "golden"))
    ports = free_ports(2)
    ranker = pods.ranker(plain, [f"127.0.0.1:{port}" for port in ports])
    pods.shard(plain, 0, port=ports[0]).wait_until_ready()
    wait_for(lambda: any("not ready after" in line for line in ranker.lines()))
    assert not ranker.is_ready()
    pods.shard(plain, 1, port=ports[1])
    ranker.wait_until_ready()
    assert any("no score was compared" in line for line in ranker.lines())
    assert scores_of(ranker.infer())["like"] == pytest.approx(offline_scores(plain, make_request())["like"], abs=1e-3)


@pytest.mark.slow
def test_damaged_golden_scores_are_found_by_the_ranker_alone(bundle: Path, pods: Pods, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    (damaged / GOLDEN_REQUEST).write_text(json.dumps(make_request()) + " ")
    pods.shard(damaged, 0).wait_until_ready()
    ranker = pods.ranker(damaged, NOBODY)
    assert ranker.exit_code() == 2
    assert ranker.lines()[-1].startswith(f"error: {damaged}: golden/request.json is damaged")


@pytest.mark.slow
def test_a_folder_that_holds_another_bundle_than_the_one_meant_is_not_served(bundle: Path, pods: Pods) -> None:
    meant, found = "0" * 64, BundleManifest.read(bundle).bundle_id
    wrong, right = ["--bundle-id", meant], ["--bundle-id", found]
    for pod in (pods.ranker(bundle, NOBODY, arguments=wrong), pods.shard(bundle, 0, arguments=wrong)):
        assert pod.exit_code() == 2
        assert pod.lines()[-1].startswith(f"error: {bundle} holds bundle {found}, expected {meant}: ")
    pods.shard(bundle, 0, arguments=right).wait_until_ready()


def is_ready_by_grpc(pod: Pod) -> bool:
    with tritonclient.grpc.InferenceServerClient(pod.grpc_address) as client:
        return bool(client.is_server_ready())


@pytest.mark.slow
def test_a_server_that_leaves_says_so_first_and_answers_until_it_stops(bundle: Path, pods: Pods) -> None:
    ranker = pods.ranker(bundle, start_shards(pods, bundle), settings={"shutdown": {"lame_duck_s": 3}})
    ranker.wait_until_ready()
    assert is_ready_by_grpc(ranker)
    assert ranker.counted("exfm_ready") == 1
    with httpx.Client() as client:
        url = f"{ranker.rest_url}/v2/models/students/infer"
        assert "connection" not in client.post(url, json=make_request()).headers

        def leave() -> None:
            ranker.server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not ranker.is_ready())

        load = Load(ranker)
        load.during(leave)
        assert load.num_answered > 0
        assert load.errors == []
        assert not is_ready_by_grpc(ranker)
        assert ranker.counted("exfm_ready") == 0
        assert httpx.get(f"{ranker.rest_url}/v2/health/live").status_code == 200
        response = client.post(url, json=make_request())
        assert response.status_code == 200
        assert response.headers["connection"] == "close"
        response = client.post(url, json={})
        assert (response.status_code, response.headers["connection"]) == (400, "close")
    assert ranker.exit_code() == 0


@pytest.mark.slow
def test_a_server_that_never_was_ready_stops_at_once(bundle: Path, pods: Pods) -> None:
    ranker = pods.ranker(bundle, NOBODY, settings={"shutdown": {"lame_duck_s": 600}})
    for text in ("serving students", "not ready after"):
        wait_for(lambda text=text: any(text in line for line in ranker.lines()))
    assert ranker.counted("exfm_ready") == 0
    ranker.server.process.send_signal(signal.SIGTERM)
    assert ranker.exit_code() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("--transport=grpc", "rankers reach shards by streams; leave it out; run `exfm deploy` again"),
        ("--cache-mib=8", "rankers have no cache of items"),
    ],
)
def test_an_option_of_an_earlier_release_is_refused_with_what_to_do(
    bundle: Path, pods: Pods, option: str, remedy: str
) -> None:
    pod = pods.ranker(bundle, NOBODY, arguments=[option])
    assert pod.exit_code() == 2
    assert pod.lines()[-1].startswith(f"error: {option.split('=')[0]} is no longer an option: ")
    assert remedy in pod.lines()[-1]


@pytest.mark.slow
def test_an_option_that_never_was_is_refused(bundle: Path, pods: Pods) -> None:
    pod = pods.shard(bundle, 0, arguments=["--colour=red"])
    assert pod.exit_code() == 2
    assert pod.lines()[-1].endswith("error: unrecognized arguments: --colour=red")
