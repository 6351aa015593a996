"""`kubectl drain`, by the eviction API, on servers with the settings for production and on others, under load.

The rig has one node, which a drain cordons: no replacement starts until the test lets the node take pods again.
"""

import json
import re
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from operators import NAMESPACE, REPOSITORY, Operator, wait_for
from tls_secrets import tls_secrets

pytestmark = pytest.mark.cluster

PRODUCTION = REPOSITORY / "manifests/overlays/production/deploy.yaml"
REFUSED = r'error when evicting pods/"([^"]+)" .*: Cannot evict pod as it would violate the pod\'s disruption budget'
"""What `kubectl drain` says when a budget holds a pod."""
NO_STORE = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "exfm-s3", "namespace": NAMESPACE},
    "stringData": {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"},
}
"""Keys of no store: exporters try and fail, which must cost no request either."""


def pods_by_kind(operator: Operator) -> dict[str, list[Any]]:
    """Return the pods that nothing has told to end: rankers, and the servers of each shard."""
    text = operator.kubectl("get", "pods", f"--namespace={NAMESPACE}", "--output=json")
    found: dict[str, list[Any]] = {}
    for pod in json.loads(text)["items"]:
        labels = pod["metadata"]["labels"]
        if "deletionTimestamp" not in pod["metadata"]:
            kind = f"{labels['app.kubernetes.io/component']} {labels.get('exfm.dev/shard', '')}".strip()
            found.setdefault(kind, []).append(pod)
    return found


def ready(operator: Operator) -> dict[str, int]:
    """Return how many of each kind's pods are ready."""
    return {kind: sum(map(is_ready, pods)) for kind, pods in pods_by_kind(operator).items()}


def is_ready(pod: Any) -> bool:
    """Return whether a pod is ready."""
    conditions = pod["status"].get("conditions", [])
    return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)


def evicted(operator: Operator, pods: Collection[str]) -> set[str]:
    """Return those of these pods that are gone, or told to end."""
    present = {pod["metadata"]["name"] for kind in pods_by_kind(operator).values() for pod in kind}
    return {*pods} - present


@contextmanager
def draining(operator: Operator, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Drain the node of the model's pods while the block runs, its output in `log`; then let the node take pods."""
    [node] = operator.names("nodes")
    command = [operator.tool, f"--kubeconfig={operator.kubeconfig}", "drain", node, "--delete-emptydir-data"]
    command += [f"--pod-selector=exfm.dev/vm={operator.vm}", "--timeout=300s"]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
            operator.kubectl("uncordon", node)


@pytest.fixture
def production(operator: Operator, tmp_path: Path) -> Iterator[Operator]:
    """Version 1 served as in production, but for its servers' size."""
    settings = yaml.safe_load(operator.settings.read_text())
    told = yaml.safe_load(PRODUCTION.read_text())
    merged = {**settings, **told, **{kind: settings[kind] | told[kind] for kind in ("ranker", "shard")}}
    file = tmp_path / "deploy.yaml"
    file.write_text(yaml.safe_dump(merged))
    operator.undeploy()
    operator.apply(*tls_secrets(trustme.CA()), NO_STORE)
    operator.install("production")
    operator.exfm(*operator.deploy_arguments(1)[:-1], str(file))
    yield operator
    operator.undeploy()
    operator.install("base")
    operator.kubectl("delete", "secret", f"--namespace={NAMESPACE}", "exfm-s3")
    operator.kubectl("delete", "configmap", f"--namespace={NAMESPACE}", "exfm-exporter")


def test_a_node_drains_without_a_failed_request(production: Operator, tmp_path: Path) -> None:
    kinds = {pod["metadata"]["name"]: kind for kind, pods in pods_by_kind(production).items() for pod in pods}
    assert sorted(kinds.values()) == ["ranker", "ranker", "shard 0", "shard 0", "shard 1", "shard 1"]
    log = tmp_path / "drain.log"

    def refused() -> set[str]:
        return {kinds[pod] for pod in re.findall(REFUSED, log.read_text())}

    with production.load() as load, draining(production, log) as drain:
        wait_for(lambda: refused() == {*kinds.values()}, seconds=60, what="a refusal for each kind")
        # No node takes the replacements of the pods that went, so their others must stay.
        wait_for(lambda: len(evicted(production, kinds)) == 3, seconds=60, what="the first three pods' end")
        time.sleep(6)  # longer than kubectl waits before it tries again
        assert ready(production) == {"ranker": 1, "shard 0": 1, "shard 1": 1}
        assert drain.poll() is None
        production.kubectl("uncordon", *production.names("nodes"))  # as if a node were added
        wait_for(lambda: drain.poll() is not None, seconds=300, what="the drain's end")
        assert drain.returncode == 0, log.read_text()
        wait_for(lambda: set(ready(production).values()) == {2}, seconds=180, what="two servers of each kind")
    assert len(evicted(production, kinds)) == 6
    assert load.num > 100
    assert (load.failures, load.wrong) == ({}, 0)
    assert load.versions == {production.ids[1]: load.num}


def test_the_only_server_of_a_shard_does_not_block_a_drain(served: Operator, tmp_path: Path) -> None:
    before = [pod["metadata"]["name"] for kind in ("shard 0", "shard 1") for pod in pods_by_kind(served)[kind]]
    assert len(before) == 2
    with draining(served, tmp_path / "drain.log"):
        wait_for(lambda: evicted(served, before) == {*before}, seconds=60, what="both shards' end")
    all_back = {"ranker": 2, "shard 0": 1, "shard 1": 1}
    wait_for(lambda: ready(served) == all_back, seconds=180, what="the servers' return")
