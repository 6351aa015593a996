"""Servers added under load, removed after it, and placed on nodes with GPUs."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from operators import NAMESPACE, Operator, wait_for

pytestmark = pytest.mark.cluster


MOST_LOADS = 4
"""Of 100 requests a second each."""


def holds_within(seconds: float, condition: Callable[[], bool]) -> bool:
    give_up_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_s:
            return False
        time.sleep(1)
    return True


def replicas(operator: Operator, deployment: str) -> int:
    text = operator.kubectl(
        "get", "deployment", f"--namespace={NAMESPACE}", deployment, "--output=jsonpath={.status.readyReplicas}"
    )
    return int(text or 0)


def test_a_shards_server_is_added_under_load_and_removed_after_it(served: Operator, tmp_path: Path) -> None:
    scaled = yaml.safe_load(served.settings.read_text())
    # One server more above 83 millicores (75 and the autoscaler's tolerance), one less when both take less than 75.
    # A server takes 8 to 16 when idle, by how fast the machine is, and for each request a second 4 to 8 more when these
    # are few, 0.5 to 2 when they are many: 100 a second take 58 to 216, so a fast machine gets more. The steady load
    # takes no more than 56.
    scaled["shard"] |= {"cpu_request_m": 75, "max_replicas": 2, "cpu_target_percent": 100}
    settings = tmp_path / "scaled.yaml"
    settings.write_text(yaml.safe_dump(scaled))
    arguments = served.deploy_arguments(1)
    served.exfm(*arguments[:-1], str(settings))
    shard = f"{served.vm}-v1-s0-predictor"
    autoscalers = [shard, f"{served.vm}-v1-s1-predictor"]
    wait_for(lambda: served.names("horizontalpodautoscalers") == autoscalers, seconds=30, what="autoscalers")
    with served.load(rate=3) as steady:
        with ExitStack() as stack:
            heavy = [stack.enter_context(served.load(rate=100))]
            while not holds_within(60, lambda: replicas(served, shard) == 2):
                assert len(heavy) < MOST_LOADS, f"{100 * len(heavy)} requests a second bring no second server"
                heavy.append(stack.enter_context(served.load(rate=100)))
        wait_for(lambda: replicas(served, shard) == 1, seconds=150, what="one server again")
    for load in (steady, *heavy):
        assert (load.failures, load.wrong) == ({}, 0)
    served.deploy(1)
    wait_for(lambda: not served.names("horizontalpodautoscalers"), seconds=30, what="no autoscaler")


@pytest.fixture
def gpu_manifests(operator: Operator) -> Iterator[Operator]:
    """The GPU component applied, and nothing deployed."""
    operator.undeploy()
    operator.install("gpu")
    yield operator
    operator.undeploy()
    operator.install("base")


TAINT = "nvidia.com/gpu=present:NoSchedule"


@pytest.fixture
def node(operator: Operator) -> Iterator[str]:
    """A node that is given GPUs, and loses them again."""
    [name] = operator.names("nodes")
    yield name
    operator.kubectl("label", "node", name, "nvidia.com/gpu.present-")
    if TAINT.partition("=")[0] in operator.kubectl("get", "node", name, "--output=jsonpath={.spec.taints}"):
        operator.kubectl("taint", "node", name, f"{TAINT}-")
    gone = [{"op": "remove", "path": "/status/capacity/nvidia.com~1gpu"}]
    operator.kubectl("patch", "node", name, "--subresource=status", "--type=json", f"--patch={json.dumps(gone)}")


def allocatable(operator: Operator, node: str) -> str:
    return operator.kubectl("get", "node", node, r"--output=jsonpath={.status.allocatable.nvidia\.com/gpu}")


def test_rankers_go_to_nodes_with_gpus_and_shards_to_others(gpu_manifests: Operator, node: str, tmp_path: Path) -> None:
    changed = tmp_path / "changed.yaml"
    settings = yaml.safe_load(gpu_manifests.settings.read_text())

    def deploy(*, check: bool = False, **more: Any) -> "subprocess.CompletedProcess[str]":
        changed.write_text(yaml.safe_dump(settings | more))
        return gpu_manifests.exfm(*gpu_manifests.deploy_arguments(1)[:-1], str(changed), check=check)

    def pods() -> list[Any]:
        text = gpu_manifests.kubectl("get", "pods", f"--namespace={NAMESPACE}", "--output=json")
        return list(json.loads(text)["items"])

    refused = deploy()
    assert refused.returncode == 3
    assert re.search(r"no node has room for a ranker of .*1 nvidia.com/gpu.*; 0 of 1 nodes admit it", refused.stderr)

    gpu_manifests.kubectl("label", "node", node, "nvidia.com/gpu.present=true")
    gpus = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "8"}]
    gpu_manifests.kubectl("patch", "node", node, "--subresource=status", "--type=json", f"--patch={json.dumps(gpus)}")
    wait_for(lambda: allocatable(gpu_manifests, node) == "8", seconds=60, what="the node's GPUs")
    gpu_manifests.kubectl("taint", "node", node, TAINT)
    refused = deploy()
    assert refused.returncode == 3
    assert re.search(r"no node has room for a shard \d of .*; 0 of 1 nodes admit it", refused.stderr)
    unplaced = deploy(ready_timeout_s=10, nodes_must_fit=False)
    assert unplaced.returncode == 3
    assert re.search(r"Unschedulable: 0/1 nodes are available: .*untolerated taint", unplaced.stderr)
    assert gpu_manifests.names("inferenceservices") == []

    gpu_manifests.kubectl("taint", "node", node, f"{TAINT}-")
    deploy(check=True)
    limits = [
        (pod["metadata"]["labels"]["app.kubernetes.io/component"],
         pod["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu"))
        for pod in pods()
    ]  # fmt: skip
    assert sorted(limits, key=str) == [("ranker", "1"), ("ranker", "1"), ("shard", None), ("shard", None)]

    gpu_manifests.kubectl("taint", "node", node, TAINT)
    [first, _] = gpu_manifests.names("pods", labels="app.kubernetes.io/component=ranker")
    gpu_manifests.kubectl("delete", "pod", f"--namespace={NAMESPACE}", first, "--wait=false")

    def is_replaced() -> bool:
        present = {pod["metadata"]["name"]: pod for pod in pods()}
        placed = [pod for pod in present.values() if pod["spec"].get("nodeName") == node]
        return first not in present and len(placed) == 4

    wait_for(is_replaced, seconds=60, what="another ranker on the tainted node")
