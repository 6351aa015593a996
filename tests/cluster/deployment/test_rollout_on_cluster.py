"""A model's versions come, go and fail on a real cluster, under load."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from bundle_versions import golden, golden_scores, seal
from operators import MODELS_CLAIM, NAMESPACE, Operator, wait_for

from exfm.artifact.bundle import BundleManifest, tables_file

pytestmark = pytest.mark.cluster

TOLERANCE = 1e-3


def close(found: dict[str, list[float]], expected: dict[str, list[float]]) -> bool:
    return found.keys() == expected.keys() and all(
        max(abs(one - other) for one, other in zip(found[task], expected[task], strict=True)) <= TOLERANCE
        for task in expected
    )


def ask_rest(url: str, model: str, request: dict[str, Any]) -> tuple[str, dict[str, list[float]]]:
    answer = httpx.post(f"{url}/v2/models/{model}/infer", json=request, timeout=10, trust_env=False)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["model_version"], {output["name"]: output["data"] for output in body["outputs"]}


def test_a_deployed_model_answers_rest_by_port_forward_as_offline(served: Operator) -> None:
    request, expected = golden(served.bundles[1])
    with served.port_forward(NAMESPACE, f"{served.vm}-predictor", 80) as url:
        version, found = ask_rest(url, served.vm, request)
    assert version == served.ids[1]
    assert close(found, expected)


def test_a_deployed_model_answers_rest_from_a_pod_by_its_dns_name(served: Operator) -> None:
    request, expected = golden(served.bundles[1])
    url = f"http://{served.vm}-predictor.{NAMESPACE}.svc/v2/models/{served.vm}/infer"
    program = f"import sys, httpx; print(httpx.post({url!r}, content=sys.stdin.read(), timeout=10).text)"
    answer = json.loads(served.in_client(program, text=json.dumps(request)))
    assert answer["model_version"] == served.ids[1]
    assert close({output["name"]: output["data"] for output in answer["outputs"]}, expected)


def test_a_deployed_model_answers_grpc_from_a_pod_as_offline(served: Operator) -> None:
    with served.load(rate=10) as load:
        time.sleep(3)
    assert load.num > 30
    assert (load.failures, load.wrong) == ({}, 0)
    assert load.versions == {served.ids[1]: load.num}


def test_deploying_again_changes_nothing(served: Operator) -> None:
    def state() -> str:
        return served.kubectl(
            "get", "inferenceservices,services,deployments", f"--namespace={NAMESPACE}",
            "--output=jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation} "
            "{.metadata.resourceVersion}{'\\n'}{end}",
        )  # fmt: skip

    assert served.exfm(*served.deploy_arguments(1), "--dry-run").stdout.strip() == "students v1: nothing would change"
    before = state()
    served.deploy(1)
    assert state() == before


def test_a_dry_run_shows_the_difference_and_makes_none(served: Operator) -> None:
    before = served.names("inferenceservices")
    text = served.deploy(2, "--dry-run").stdout
    assert "+  name: students-v2-s0" in text
    assert re.search(r"^-\s+- --bundle-id=" + served.ids[1], text, flags=re.MULTILINE)
    assert re.search(r"^\+\s+- --bundle-id=" + served.ids[2], text, flags=re.MULTILINE)
    assert served.names("inferenceservices") == before


def test_a_rollout_and_a_rollback_under_load_fail_no_request_and_mix_no_versions(served: Operator) -> None:
    with served.load() as load:
        served.deploy(2)
        assert served.serving() == 2
        served.exfm("rollback", served.vm, "-c", str(served.settings))
        assert served.serving() == 1
    assert (load.failures, load.wrong) == ({}, 0)
    assert set(load.versions) == {served.ids[1], served.ids[2]}
    assert load.order[0] == load.order[-1] == served.ids[1]


def test_a_rollback_to_a_version_that_must_be_loaded_again_fails_no_request(served: Operator) -> None:
    served.deploy(2)
    served.exfm("collect", served.vm, "-c", str(served.cold_settings))
    wait_for(lambda: not shard_pods(served, 1), seconds=60, what="version 1 cold")
    with served.load() as load:
        served.exfm("rollback", served.vm)
        assert served.serving() == 1
    assert (load.failures, load.wrong) == ({}, 0)
    assert set(load.versions) == {served.ids[1], served.ids[2]}


@pytest.fixture(scope="module")
def replicated(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Version 3 in the claim: version 1 planned with two servers for each shard."""
    folder = tmp_path_factory.mktemp("replicated") / "v3"
    subprocess.run(["cp", "-r", str(operator.bundles[1]), str(folder)], check=True)
    manifest = BundleManifest.read(folder)
    plan = manifest.plan.model_copy(update={"replicas": (2,) * manifest.plan.num_shards})
    replicated = seal(folder, manifest.model_copy(update={"plan": plan}))
    operator.copy_to_claim(folder, "v3")
    return operator.with_version(3, folder, replicated.bundle_id)


@pytest.fixture
def two_replicas(replicated: Operator) -> Operator:
    """Version 3 serving."""
    replicated.deploy(3)
    return replicated


def shard_pods(operator: Operator, version: int) -> list[str]:
    return operator.names("pods", labels=f"app.kubernetes.io/component=shard,exfm.dev/version={version}")


def ranker_starts(operator: Operator) -> dict[str, str]:
    """Return when each ranker's server was started, by its pod; pods that are on their way out do not count."""
    pods = json.loads(
        operator.kubectl(
            "get", "pods", f"--namespace={NAMESPACE}", "--selector=app.kubernetes.io/component=ranker", "--output=json"
        )
    )
    return {
        pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        for pod in pods["items"]
        if "deletionTimestamp" not in pod["metadata"]
    }


def restarts(operator: Operator, pod: str) -> str:
    """Return how often a pod's server was started again; nothing, if the pod is gone."""
    return operator.kubectl(
        "get", "pod", f"--namespace={NAMESPACE}", pod, "--ignore-not-found",
        "--output=jsonpath={.status.containerStatuses[*].restartCount}",
    )  # fmt: skip


def lose(operator: Operator, pod: str, *, how: str = "kill") -> None:
    """Kill a pod's server or delete the pod; return when that is seen."""
    before = restarts(operator, pod)
    if how == "kill":
        operator.kill(pod)
    else:
        operator.kubectl("delete", "pod", f"--namespace={NAMESPACE}", pod, "--wait=false")
    wait_for(lambda: restarts(operator, pod) != before, seconds=60, what=f"the end of {pod}")


def all_ready(operator: Operator, version: int) -> bool:
    [row] = [row for row in operator.status() if row["version"] == version]
    return row["state"] == "serving" and all(a == b for a, b in (one.split("/") for one in row["shards"].split()))


@pytest.mark.parametrize("how", ["kill", "delete"])
def test_with_two_servers_a_shard_a_lost_one_costs_no_request(two_replicas: Operator, how: str) -> None:
    victim = shard_pods(two_replicas, 3)[0]
    with two_replicas.load() as load:
        lose(two_replicas, victim, how=how)
        wait_for(lambda: all_ready(two_replicas, 3), seconds=60, what="another server")
    assert (load.failures, load.wrong) == ({}, 0)


def test_with_one_server_a_shard_requests_fail_at_once_until_it_is_back_and_no_ranker_restarts(
    served: Operator,
) -> None:
    starts = ranker_starts(served)
    with served.load() as load:
        lose(served, shard_pods(served, 1)[0])
        wait_for(lambda: all_ready(served, 1), seconds=60, what="the shard's return")
        time.sleep(3)
    assert load.failures
    assert all(text.startswith("UNAVAILABLE: shard ") for text in load.failures)
    assert load.slowest_failure_s < 5.0
    assert load.wrong == 0
    with served.load() as after:
        time.sleep(2)
    assert (after.failures, after.wrong) == ({}, 0)
    assert ranker_starts(served) == starts


def test_with_one_server_a_shard_rankers_that_may_degrade_answer_until_it_is_back(
    served: Operator, tmp_path: Path
) -> None:
    lost = 1  # not the one above: a second kill of one pod has the kubelet wait 10 s
    whole, without = (golden_scores(served.bundles[1], without=shards) for shards in ((), (lost,)))
    assert not close(whole, without), "equal scores would hide any mistake"
    tables = {slice_.table for slice_ in BundleManifest.read(served.bundles[1]).plan.slices_on(lost)}
    settings = tmp_path / "degrade.yaml"
    changed = yaml.safe_load(served.settings.read_text())
    changed["ranker"]["shards"] = {"when_shard_fails": "degrade"}
    settings.write_text(yaml.safe_dump(changed))
    served.exfm(*served.deploy_arguments(1)[:-1], str(settings))
    starts = ranker_starts(served)
    with served.load(may_miss={lost}) as load:
        lose(served, shard_pods(served, 1)[lost])
        wait_for(lambda: all_ready(served, 1), seconds=60, what="the shard's return")
    assert (load.failures, load.wrong) == ({}, 0)
    assert load.degraded.keys() == {",".join(sorted(tables))}
    assert 10 < sum(load.degraded.values()) < load.num
    with served.load() as after:
        time.sleep(2)
    assert (after.failures, after.wrong, after.degraded) == ({}, 0, {})
    assert ranker_starts(served) == starts


def test_a_deployment_killed_anywhere_converges(either: Operator) -> None:
    old = either.serving()
    new = 3 - old
    with either.load() as load:
        for number in range(7):
            process = either.start(*either.deploy_arguments(old if number % 2 else new))
            time.sleep(0.5 + 1.5 * number)
            process.kill()
            process.communicate()
        either.deploy(new)
        assert either.serving() == new
    assert (load.failures, load.wrong) == ({}, 0)


def test_a_rollout_goes_on_after_the_api_server_was_restarted(either: Operator) -> None:
    new = 3 - either.serving()
    with either.load() as load:
        process = either.start(*either.deploy_arguments(new))
        assert process.stdout is not None
        before = [process.stdout.readline()]
        while "switching the ranker" not in before[-1]:
            before.append(process.stdout.readline())
            assert before[-1], process.communicate()
        either.restart_api_server()
        after, errors = process.communicate(timeout=200)
        if process.returncode != 0:  # told so, and run again
            assert "run the same command again" in errors, errors
            after = either.deploy(new).stdout
        assert either.serving() == new
    assert (load.failures, load.wrong) == ({}, 0)
    assert "rankers switched" in after
    assert after.splitlines()[-1] == f"students v{new}: serving"


def damaged(operator: Operator, folder: Path, *, how: str) -> Operator:
    """Version 4 in the claim, not as its manifest says."""
    subprocess.run(["cp", "-r", str(operator.bundles[2]), str(folder)], check=True)
    manifest = BundleManifest.read(folder)
    if how == "table":
        file = folder / tables_file(0)
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))
    if how == "scores":
        response = json.loads((folder / "golden/response.json").read_text())
        response["outputs"][0]["data"][0] += 0.1
        (folder / "golden/response.json").write_text(json.dumps(response))
        manifest = seal(folder, manifest)
    operator.copy_to_claim(folder, "v4")
    return operator.with_version(4, folder, manifest.bundle_id)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("table", r"shards/0/tables.safetensors is damaged: expected \d+ B with SHA-256"),
        ("scores", r"task 'like'.*expected"),
    ],
)
def test_a_bundle_that_is_not_what_it_says_leaves_the_old_version_serving(
    served: Operator, tmp_path: Path, how: str, message: str
) -> None:
    spoilt = damaged(served, tmp_path / "v4", how=how)
    with served.load() as load:
        process = spoilt.deploy(4, check=False)
    assert process.returncode == 3
    assert re.search(rf"^exfm: students v4 is not serving: .*{message}", process.stderr)
    assert process.stderr.strip().endswith("students v1 keeps serving")
    assert (load.failures, load.wrong) == ({}, 0)
    assert served.names("inferenceservices") == ["students", "students-v1-s0", "students-v1-s1"]
    wait_for(lambda: all_ready(served, 1), seconds=30, what="version 1's rankers")


def test_a_bundle_overwritten_since_its_digest_was_taken_is_refused_at_once(served: Operator) -> None:
    process = served.deploy(2, "--digest", "0" * 64, check=False)
    assert process.returncode == 2
    assert re.search(r"manifest.json has SHA-256 [0-9a-f]{64}, expected 0000", process.stderr)
    assert served.names("inferenceservices") == ["students", "students-v1-s0", "students-v1-s1"]


def test_a_claim_whose_folder_holds_another_bundle_is_refused_by_the_servers(served: Operator) -> None:
    process = served.exfm(
        "deploy", str(served.bundles[2]), "--serve-from", f"pvc://{MODELS_CLAIM}/v1", "--version", "5",
        "-c", str(served.settings), check=False,
    )  # fmt: skip
    assert process.returncode == 3
    assert served.ids[1][:12] in process.stderr
    assert "students v1 keeps serving" in process.stderr
    wait_for(lambda: all_ready(served, 1), seconds=30, what="version 1's rankers")


def test_an_image_that_is_not_there_is_named_and_the_old_version_serves_on(served: Operator) -> None:
    runtime = ["--namespace", NAMESPACE, "servingruntime", "exfm-shard"]
    image = served.kubectl("get", *runtime, "--output=jsonpath={.spec.containers[0].image}")
    path = "/spec/containers/0/image"
    # It reaches the old version's Deployments too, whose pods stay until new ones are ready.
    patch = json.dumps([{"op": "replace", "path": path, "value": "localhost/exfm-serving:missing"}])
    served.kubectl("patch", *runtime, "--type=json", f"--patch={patch}")
    try:
        process = served.deploy(2, check=False)
    finally:
        patch = json.dumps([{"op": "replace", "path": path, "value": image}])
        served.kubectl("patch", *runtime, "--type=json", f"--patch={patch}")
    assert process.returncode == 3
    assert re.search(r"ImagePullBackOff: .*localhost/exfm-serving:missing", process.stderr)
    assert "students v1 keeps serving" in process.stderr
    wait_for(lambda: all_ready(served, 1), seconds=60, what="the old version's shards")
    assert served.names("inferenceservices") == ["students", "students-v1-s0", "students-v1-s1"]


def test_a_quota_that_cannot_hold_both_versions_refuses_before_anything_is_made(
    served: Operator, quota: Callable[..., None]
) -> None:
    quota(requests__memory="5Gi")
    process = served.deploy(2, check=False)
    assert process.returncode == 3
    assert re.search(r"quota 'test' has [\d.]+ GiB of 5.00 GiB left", process.stderr)
    assert served.names("inferenceservices") == ["students", "students-v1-s0", "students-v1-s1"]
    assert served.serving() == 1


def test_a_removed_model_leaves_nothing_behind(served: Operator) -> None:
    served.exfm("undeploy", served.vm, "-c", str(served.settings))
    own = ("inferenceservices", "services", "poddisruptionbudgets")
    for kind in (*own, "deployments", "replicasets", "pods", "horizontalpodautoscalers"):
        assert served.names(kind) == []
    assert served.exfm("status").stdout.startswith("nothing is deployed")
    process = served.exfm("undeploy", served.vm, check=False)
    assert process.returncode == 3
    assert "no vertical model 'students' is deployed" in process.stderr
