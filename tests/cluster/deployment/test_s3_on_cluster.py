"""A bundle in S3 (SeaweedFS), copied by KServe's storage initializer, with credentials by Secret only."""

import json
import time
from collections.abc import Iterator

import pytest
from object_store import BUCKET, SECRET, environment, files, running_store
from operators import NAMESPACE, Operator

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def store(operator: Operator) -> Iterator[str]:
    """SeaweedFS with both versions in it; yields its address on this machine."""
    with running_store(operator) as url:
        for version in (1, 2):
            files(url).put(f"{operator.bundles[version]}/", f"{BUCKET}/students-{version}/", recursive=True)
        yield url
        operator.undeploy()


def test_a_bundle_in_s3_is_deployed_rolled_over_and_answers_rightly(
    operator: Operator, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(store).items():
        monkeypatch.setenv(name, value)
    operator.undeploy()
    operator.exfm("deploy", f"s3://{BUCKET}/students-1", "-c", str(operator.settings))
    with operator.load() as load:
        operator.exfm("deploy", f"s3://{BUCKET}/students-2", "-c", str(operator.settings))
    assert (load.failures, load.wrong) == ({}, 0)
    # Clients connect anew all the time, and while rankers of both versions are ready, either may answer.
    assert (load.order[0], load.order[-1]) == (operator.ids[1], operator.ids[2])
    assert set(load.order) == {operator.ids[1], operator.ids[2]}
    assert operator.serving() == 2
    [shard] = operator.names("pods", labels="exfm.dev/version=2,exfm.dev/shard=1")
    listing = operator.kubectl(
        "exec", f"--namespace={NAMESPACE}", shard, "--container=kserve-container", "--",
        "find", "/mnt/models", "-type", "f",
    )  # fmt: skip
    assert sorted(listing.split()) == ["/mnt/models/manifest.json", "/mnt/models/shards/1/tables.safetensors"]


def test_wrong_credentials_are_told_in_the_initializers_words(
    operator: Operator, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(store).items():
        monkeypatch.setenv(name, value)
    operator.undeploy()
    patch = json.dumps({"stringData": {"AWS_SECRET_ACCESS_KEY": "wrong"}})
    operator.kubectl("patch", "secret", f"--namespace={NAMESPACE}", "exfm-s3", f"--patch={patch}")
    try:
        process = operator.exfm("deploy", f"s3://{BUCKET}/students-1", "-c", str(operator.settings), check=False)
    finally:
        patch = json.dumps({"stringData": {"AWS_SECRET_ACCESS_KEY": SECRET}})
        operator.kubectl("patch", "secret", f"--namespace={NAMESPACE}", "exfm-s3", f"--patch={patch}")
    assert process.returncode == 3
    assert "storage-initializer ended with exit code" in process.stderr
    assert operator.names("inferenceservices") == []


def test_a_missing_secret_is_told_within_seconds(
    operator: Operator, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(store).items():
        monkeypatch.setenv(name, value)
    operator.undeploy()
    secret = ("secret", f"--namespace={NAMESPACE}", "exfm-s3")
    kept = json.loads(operator.kubectl("get", *secret, "--output=json"))
    operator.kubectl("delete", *secret)
    try:
        with operator.start("deploy", f"s3://{BUCKET}/students-1", "-c", str(operator.settings)) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert "peak memory" in process.stdout.readline()  # imports are done, and nothing is made yet
            began_s = time.monotonic()
            told = next((line for line in process.stdout if f"is missing in namespace {NAMESPACE}" in line), "")
            took_s = time.monotonic() - began_s
            _, stderr = process.communicate(timeout=150)
    finally:
        metadata = {key: kept["metadata"][key] for key in ("name", "namespace", "annotations")}
        operator.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": kept["data"]})
    assert "Secret exfm-s3 is missing" in told
    assert took_s < 5
    assert process.returncode == 3
    assert f"Secret exfm-s3 is missing in namespace {NAMESPACE}" in stderr
    assert "its servers are removed" in stderr
    assert operator.names("inferenceservices") == []
    operator.exfm("deploy", f"s3://{BUCKET}/students-1", "-c", str(operator.settings))  # with the Secret it serves
    assert operator.serving() == 1
    operator.undeploy()


def test_a_bundle_that_is_not_in_s3_is_named(operator: Operator, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(store).items():
        monkeypatch.setenv(name, value)
    process = operator.exfm("deploy", f"s3://{BUCKET}/nothing", check=False)
    assert process.returncode == 2
    assert process.stderr.startswith(f"exfm: s3://{BUCKET}/nothing: no manifest.json there")
