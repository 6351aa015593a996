"""Servers on nodes with GPUs: the components' patches as they are written, and which of a cluster's nodes take pods."""

import contextlib
import copy
from typing import Any, cast

import pytest
import yaml
from rendering import MANIFESTS, Object

from exfm.deploy.capacity import Room, forecast
from exfm.deploy.cluster import Cluster
from exfm.deploy.config import DeployConfig
from exfm.deploy.observation import observe
from exfm.deploy.release import Release
from exfm.errors import CapacityError
from exfm.serving.config import RankerConfig, ShardConfig
from simulated_cluster import SimulatedCluster, node

COMPONENTS = {"ranker": "gpu", "shard": "gpu-shards"}
"""The component that gives a kind of server its GPU."""


def patched(object_: Object, component: str, file: str) -> Object:
    """Return an object after a component's JSON patch, of operations that set a value."""
    result = copy.deepcopy(object_)
    for operation in yaml.safe_load((MANIFESTS / f"components/{component}/{file}.yaml").read_text()):
        *parents, last = [part.replace("~1", "/") for part in operation["path"].split("/")[1:]]
        place: Any = result
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        assert (operation["op"] == "add") == (last not in place)
        place[last] = operation["value"]
    return result


def runtimes(*on_gpus: str) -> list[Object]:
    """Return both ServingRuntimes, those of some kinds of servers with a GPU."""
    written = {kind: yaml.safe_load((MANIFESTS / f"base/runtime-{kind}.yaml").read_text()) for kind in COMPONENTS}
    return [patched(one, COMPONENTS[kind], kind) if kind in on_gpus else one for kind, one in written.items()]


def gpu_node(num_gpus: int) -> Any:
    """Return a node with GPUs, labelled and tainted as NVIDIA's operator does and clusters advise."""
    one: Any = node("gpu", cpu="64", memory="256Gi")
    one["metadata"]["labels"] = {"nvidia.com/gpu.present": "true"}
    one["spec"]["taints"] = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    one["status"]["allocatable"]["nvidia.com/gpu"] = str(num_gpus)
    return one


LARGE = node("cpu", cpu="64", memory="256Gi")
FOR_SHARDS = node("cpu", cpu="64", memory="3200Mi")
"""With room for the release's three shard servers, and for no ranker beside."""


@pytest.mark.parametrize("kind", COMPONENTS)
def test_a_server_on_a_gpu_has_its_others_settings_and_the_device(kind: str) -> None:
    base = yaml.safe_load((MANIFESTS / "base/settings.yaml").read_text())
    changed = patched(base, COMPONENTS[kind], "settings")
    before, after = (yaml.safe_load(object_["data"][f"{kind}.yaml"]) for object_ in (base, changed))
    assert after == {"device": "cuda", **before}
    config = {"ranker": RankerConfig, "shard": ShardConfig}[kind].parse(after, source="settings.yaml")
    assert config.device == "cuda"
    others = {key: value for key, value in base["data"].items() if key != f"{kind}.yaml"}
    assert others.items() <= changed["data"].items()


@pytest.mark.parametrize(
    ("on_gpus", "nodes", "refused"),
    [
        (["ranker"], [FOR_SHARDS, gpu_node(2)], ""),
        (["ranker"], [FOR_SHARDS, gpu_node(1)], r"a ranker of .*1 nvidia.com/gpu.*; 1 of 2 nodes admit it"),
        (["ranker"], [LARGE], r"a ranker of .*1 nvidia.com/gpu.*; 0 of 1 nodes admit it"),
        (["ranker"], [gpu_node(9)], r"a shard \d of .*; 0 of 1 nodes admit it"),
        (["ranker", "shard"], [gpu_node(5)], ""),
        (["ranker", "shard"], [LARGE, gpu_node(4)], r"1 nvidia.com/gpu.*; 1 of 2 nodes admit it"),
        ([], [LARGE, gpu_node(9)], ""),
        ([], [gpu_node(9)], r"0 of 1 nodes admit it"),
    ],
)
def test_servers_with_a_gpu_go_to_nodes_that_have_one_and_others_to_others(
    on_gpus: list[str], nodes: list[Any], refused: str
) -> None:
    release = Release(
        vm="students", version=1, bundle_id="0" * 64, digest="0" * 64, uri="s3://bucket/bundle/students",
        shard_bytes=(3 * 2**20, 2**20), replicas=(2, 1),
    )  # fmt: skip
    room = Room(quotas=(), runtimes=runtimes(*on_gpus), nodes=nodes, pods=())
    nothing = observe(cast(Cluster, SimulatedCluster()), "students")
    with pytest.raises(CapacityError, match=refused) if refused else contextlib.nullcontext():
        forecast(release, nothing, DeployConfig(), room)
