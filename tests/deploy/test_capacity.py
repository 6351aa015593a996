import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from exfm.deploy.capacity import Room, forecast
from exfm.deploy.cluster import Cluster
from exfm.deploy.config import DeployConfig, RankerResources, ShardResources
from exfm.deploy.observation import observe
from exfm.deploy.release import Release
from exfm.deploy.rollout import roll_out
from exfm.errors import CapacityError
from exfm.models.config import ShardsConfig
from simulated_cluster import SimulatedCluster, node

Make = Callable[[int], Release]

GIB = 2**30


def quota(**resources: tuple[str, str]) -> Any:
    hard = {name.replace("__", "."): hard for name, (hard, _) in resources.items()}
    used = {name.replace("__", "."): used for name, (_, used) in resources.items()}
    return {"metadata": {"name": "team"}, "status": {"hard": hard, "used": used}}


LARGE = node("one", cpu="64", memory="256Gi")


def room(*, quotas: Any = (), runtimes: Any = (), nodes: Any = (LARGE,), pods: Any = ()) -> Room:
    return Room(quotas=quotas, runtimes=runtimes, nodes=nodes, pods=pods)


@pytest.fixture
def config() -> DeployConfig:
    """Return settings of servers that take 1 GiB each."""
    return DeployConfig(ranker=RankerResources(overhead_mib=1_024), shard=ShardResources(overhead_mib=1_024))


def nothing_there() -> Any:
    return observe(cast(Cluster, SimulatedCluster()), "students")


def test_a_forecast_is_the_memory_of_the_old_and_the_new_version(release: Make, config: DeployConfig) -> None:
    cluster = cast(Cluster, SimulatedCluster())
    first = forecast(release(1), observe(cluster, "students"), config, room())
    # Shards: 2 servers of 1 GiB and 3 MiB, 1 of 1 GiB and 1 MiB; 2 rankers of 1 GiB.
    assert (first.present_bytes, first.added_bytes) == (0, 5 * GIB + 7 * 2**20)
    roll_out(cluster, release(1), config, report=lambda line: None)
    second = forecast(release(2), observe(cluster, "students"), config, room())
    # Rankers are replaced one by one, but those that end still count.
    assert (second.present_bytes, second.added_bytes) == (5 * GIB + 7 * 2**20, 5 * GIB + 7 * 2**20)
    assert str(second).startswith("peak memory 10.01 GiB (5.01 GiB of running servers and 5.01 GiB of new servers)")


def test_only_servers_whose_settings_change_are_counted(release: Make, config: DeployConfig) -> None:
    cluster = cast(Cluster, SimulatedCluster())
    roll_out(cluster, release(1), config, report=lambda line: None)
    seen = observe(cluster, "students")
    changed = DeployConfig(ranker=RankerResources(overhead_mib=2_048, replicas=3), shard=config.shard)
    assert forecast(release(1), seen, changed, room()).added_bytes == 3 * 2 * GIB
    scaled = DeployConfig(ranker=config.ranker, shard=ShardResources(overhead_mib=1_024, max_replicas=9))
    # KServe copies who scales them, and the ranker's history has it too: all are replaced.
    assert forecast(release(1), seen, scaled, room()).added_bytes == 5 * GIB + 7 * 2**20


def test_quotas_and_nodes_must_hold_the_tables_of_rankers(release: Make, config: DeployConfig) -> None:
    ranker = RankerResources(overhead_mib=1_024, shards=ShardsConfig(local_tables_mib=3_072))
    holding = DeployConfig(ranker=ranker, shard=config.shard)
    mounted = release(1).model_copy(update={"uri": "pvc://models/students"})
    assert forecast(mounted, nothing_there(), holding, room()).added_bytes == (5 + 2 * 3) * GIB + 7 * 2**20
    small = room(nodes=[node(name, cpu="64", memory="3Gi") for name in ("one", "two", "three")])
    forecast(mounted, nothing_there(), config, small)
    with pytest.raises(CapacityError, match=r"no node has room for a ranker of .*4\.00 GiB memory"):
        forecast(mounted, nothing_there(), holding, small)


def test_a_deployed_version_adds_nothing(release: Make, config: DeployConfig) -> None:
    cluster = cast(Cluster, SimulatedCluster())
    roll_out(cluster, release(1), config, report=lambda line: None)
    full = room(nodes=[node("one", cpu="0", memory="0")], quotas=[quota(pods=("5", "5"))])
    assert forecast(release(1), observe(cluster, "students"), config, full).added_bytes == 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (quota(requests__memory=("6Gi", "3Gi")), r"5.01 GiB of requests.memory, but quota 'team' has 3.00 GiB of 6.00"),
        (quota(limits__memory=("4Gi", "0")), r"of limits.memory, but quota 'team' has 4.00 GiB"),
        (quota(requests__cpu=("3", "500m")), r"3.5 of requests.cpu, but quota 'team' has 2.5 of 3 left"),
        (quota(limits__cpu=("9500m", "0")), r"10 of limits.cpu, but quota 'team' has 9.5 of 9.5 left"),
        (quota(pods=("10", "6")), r"adds 5 pods, which request 5 of pods, but quota 'team' has 4 of 10 left"),
    ],
)
def test_a_quota_that_cannot_hold_a_rollout_is_named(
    release: Make, config: DeployConfig, limits: Any, message: str
) -> None:
    with pytest.raises(CapacityError, match=message):
        forecast(release(1), nothing_there(), config, room(quotas=[limits]))


def test_a_quota_on_something_else_does_not_matter(release: Make, config: DeployConfig) -> None:
    forecast(release(1), nothing_there(), config, room(quotas=[quota(secrets=("1", "1"))]))


def test_nodes_that_together_have_room_but_none_for_the_last_server_are_refused(
    release: Make, config: DeployConfig
) -> None:
    small = [node(f"n{number}", cpu="64", memory="1900Mi") for number in range(4)]
    with pytest.raises(
        CapacityError, match=r"no node has room for a ranker of 1 cpu, 1.00 GiB memory beside.*; 4 of 4 nodes admit"
    ):
        forecast(release(1), nothing_there(), config, room(nodes=small))
    forecast(release(1), nothing_there(), config, room(nodes=[*small, node("n4", cpu="64", memory="1900Mi")]))


def test_running_pods_of_a_node_count(release: Make, config: DeployConfig) -> None:
    running = {
        "spec": {"nodeName": "one", "containers": [{"resources": {"requests": {"memory": "5Gi", "cpu": "1"}}}]},
        "status": {"phase": "Running"},
    }
    nodes = [node("one", cpu="64", memory="9Gi")]
    ended = {**running, "status": {"phase": "Succeeded"}}
    forecast(release(1), nothing_there(), config, room(nodes=nodes, pods=[ended]))
    with pytest.raises(CapacityError, match="no node has room"):
        forecast(release(1), nothing_there(), config, room(nodes=nodes, pods=[running]))


def test_an_init_container_may_request_more_than_the_servers(release: Make, config: DeployConfig) -> None:
    first = {"resources": {"requests": {"memory": "5Gi"}}}
    pod = {"spec": {"nodeName": "one", "containers": [], "initContainers": [first]}, "status": {"phase": "Pending"}}
    nodes = [node("one", cpu="64", memory="9Gi")]
    with pytest.raises(CapacityError, match="no node has room"):
        forecast(release(1), nothing_there(), config, room(nodes=nodes, pods=[pod]))
    beside = {**first, "restartPolicy": "Always"}
    pod["spec"]["initContainers"] = [{"resources": {}}, beside]  # type: ignore[index]
    with pytest.raises(CapacityError, match="no node has room"):
        forecast(release(1), nothing_there(), config, room(nodes=nodes, pods=[pod]))


def test_containers_beside_a_server_count(release: Make, config: DeployConfig) -> None:
    exporter = {"resources": {"requests": {"cpu": "20m", "memory": "2000Gi"}, "limits": {"memory": "2000Gi"}}}
    runtime = {"metadata": {"name": "exfm-ranker"}, "spec": {"containers": [{}, exporter]}}
    forecast(release(1), nothing_there(), config, room(nodes=[LARGE]))
    with pytest.raises(CapacityError, match=r"no node has room for a ranker of 1.02 cpu, 2001.00 GiB memory"):
        forecast(release(1), nothing_there(), config, room(runtimes=[runtime], nodes=[LARGE]))


GPU_NODE: Any = node("gpu", cpu="64", memory="256Gi")
GPU_NODE["metadata"]["labels"] = {"nvidia.com/gpu.present": "true"}
GPU_NODE["spec"]["taints"] = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
GPU_NODE["status"]["allocatable"]["nvidia.com/gpu"] = "5"


def gpu_runtime(name: str) -> Any:
    return {
        "metadata": {"name": name},
        "spec": {
            "containers": [{"resources": {"requests": {"cpu": "9", "nvidia.com/gpu": "1"}}}],
            "nodeSelector": {"nvidia.com/gpu.present": "true"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
    }


GPU_RUNTIMES = [gpu_runtime("exfm-ranker"), gpu_runtime("exfm-shard")]


def test_servers_with_gpus_fit_only_nodes_that_have_them_free(release: Make, config: DeployConfig) -> None:
    forecast(release(1), nothing_there(), config, room(runtimes=GPU_RUNTIMES, nodes=[LARGE, GPU_NODE]))
    with pytest.raises(CapacityError, match=r"1 nvidia.com/gpu.*0 of 1 nodes admit it"):
        forecast(release(1), nothing_there(), config, room(runtimes=GPU_RUNTIMES, nodes=[LARGE]))
    with pytest.raises(CapacityError, match="0 of 1 nodes admit it"):
        forecast(release(1), nothing_there(), config, room(nodes=[GPU_NODE]))
    taken = {
        "spec": {"nodeName": "gpu", "containers": [{"resources": {"requests": {"nvidia.com/gpu": "1"}}}]},
        "status": {"phase": "Running"},
    }
    with pytest.raises(CapacityError, match=r"the one with most free has .* 0 nvidia.com/gpu"):
        forecast(release(1), nothing_there(), config, room(runtimes=GPU_RUNTIMES, nodes=[GPU_NODE], pods=[taken]))


def test_a_quota_on_gpus_counts(release: Make, config: DeployConfig) -> None:
    limits = {"metadata": {"name": "team"}, "status": {"hard": {"requests.nvidia.com/gpu": "4"}}}
    with pytest.raises(CapacityError, match=r"5 of requests.nvidia.com/gpu, but quota 'team' has 4 of 4"):
        forecast(release(1), nothing_there(), config, room(quotas=[limits], runtimes=GPU_RUNTIMES, nodes=[GPU_NODE]))


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        ({"scopes": ["NotTerminating"]}, True),
        ({"scopes": ["Terminating"]}, False),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}, False),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "DoesNotExist"}]}}, True),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "NotIn"}]}}, True),
    ],
)
def test_a_quota_counts_for_the_pods_in_its_scopes(
    release: Make, config: DeployConfig, spec: Any, counts: bool
) -> None:
    limits = {**quota(pods=("1", "0")), "spec": spec}
    with pytest.raises(CapacityError) if counts else contextlib.nullcontext():
        forecast(release(1), nothing_there(), config, room(quotas=[limits]))


TAINTED: Any = {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}


@pytest.mark.parametrize("spoil", [{"spec": {"unschedulable": True}}, TAINTED])
def test_nodes_that_take_no_pods_do_not_count(release: Make, config: DeployConfig, spoil: Any) -> None:
    with pytest.raises(CapacityError, match="0 of 1 nodes admit it"):
        forecast(release(1), nothing_there(), config, room(nodes=[{**node("one", cpu="64", memory="256Gi"), **spoil}]))


def test_objects_that_an_account_may_not_list_are_reported_as_unchecked(release: Make, config: DeployConfig) -> None:
    blind = Room(quotas=None, runtimes=None, nodes=None, pods=None)
    assert "not checked: quotas (no right to read them), nodes" in str(
        forecast(release(1), nothing_there(), config, blind)
    )
    assert "nodes_must_fit is off" in str(
        forecast(release(1), nothing_there(), DeployConfig(nodes_must_fit=False), room(nodes=[]))
    )


def test_the_demos_servers_and_a_second_version_fit_a_node_with_two_cores(release: Make) -> None:
    file = Path(__file__).parents[2] / "examples/movielens/kubeflow.yaml"
    written = yaml.safe_load(file.read_text(encoding="utf-8"))["deployment"]["settings"]
    config = DeployConfig.parse(written, source=str(file))
    two_shards = release(1).model_copy(update={"shard_bytes": (2**20, 2**20), "replicas": (1, 1), "rankers": 0})
    requests = {"cpu": f"{config.ranker.cpu_request_m}m", "memory": f"{config.ranker.overhead_mib}Mi"}
    server = {
        "metadata": {"name": "server"},
        "spec": {"nodeName": "one", "containers": [{"resources": {"requests": requests}}]},
        "status": {"phase": "Running"},
    }
    of_cluster = {"cpu": "1", "memory": "2Gi"}  # what the cluster's own pods ask for
    system = {**server, "spec": {"nodeName": "one", "containers": [{"resources": {"requests": of_cluster}}]}}
    small = room(nodes=(node("one", cpu="2", memory="16Gi"),), pods=(system, *[server] * 9))  # three models' servers
    forecast(two_shards, nothing_there(), config, small)
    with pytest.raises(CapacityError, match=r"no node has room for a ranker of 1 cpu"):
        forecast(two_shards, nothing_there(), DeployConfig(), small)
