from collections.abc import Callable
from typing import Any, cast

import pytest
from simulated_cluster import SimulatedCluster, node

from exfm.deploy.capacity import Room, forecast
from exfm.deploy.cluster import Cluster
from exfm.deploy.config import DeployConfig
from exfm.deploy.observation import observe
from exfm.deploy.release import Release
from exfm.deploy.rollout import roll_out
from exfm.errors import CapacityError

Make = Callable[[int], Release]

GIB = 2**30


def quota(**resources: tuple[str, str]) -> Any:
    hard = {name.replace("__", "."): hard for name, (hard, _) in resources.items()}
    used = {name.replace("__", "."): used for name, (_, used) in resources.items()}
    return {"metadata": {"name": "team"}, "status": {"hard": hard, "used": used}}


LARGE = node("one", cpu="64", memory="256Gi")


def room(*, quotas: Any = (), nodes: Any = (LARGE,), pods: Any = ()) -> Room:
    return Room(quotas=quotas, nodes=nodes, pods=pods)


def nothing_there() -> Any:
    return observe(cast(Cluster, SimulatedCluster()), "students")


def test_a_forecast_is_the_memory_of_the_old_and_the_new_version(release: Make, config: DeployConfig) -> None:
    cluster = cast(Cluster, SimulatedCluster())
    first = forecast(release(1), observe(cluster, "students"), config, room())
    # Shards: 2 servers of 1 GiB and 3 MiB, 1 of 1 GiB and 1 MiB; 2 rankers of 1 GiB.
    assert (first.present_bytes, first.added_bytes) == (0, 5 * GIB + 7 * 2**20)
    roll_out(cluster, release(1), config, say=lambda line: None)
    second = forecast(release(2), observe(cluster, "students"), config, room())
    assert (second.present_bytes, second.added_bytes) == (5 * GIB + 7 * 2**20, 4 * GIB + 7 * 2**20)
    assert str(second).startswith("peak memory 9.01 GiB (5.01 GiB of servers that run and 4.01 GiB of new ones)")


def test_a_version_that_is_there_already_adds_nothing(release: Make, config: DeployConfig) -> None:
    cluster = cast(Cluster, SimulatedCluster())
    roll_out(cluster, release(1), config, say=lambda line: None)
    full = room(nodes=[node("one", cpu="0", memory="0")], quotas=[quota(pods=("5", "5"))])
    assert forecast(release(1), observe(cluster, "students"), config, full).added_bytes == 0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (quota(requests__memory=("6Gi", "3Gi")), r"5.01 GiB of requests.memory, but quota 'team' has 3.00 GiB of 6.00"),
        (quota(limits__memory=("4Gi", "0")), r"of limits.memory, but quota 'team' has 4.00 GiB"),
        (quota(requests__cpu=("3", "500m")), r"3.5 of requests.cpu, but quota 'team' has 2.5 of 3 left"),
        (quota(limits__cpu=("9500m", "0")), r"10 of limits.cpu, but quota 'team' has 9.5 of 9.5 left"),
        (quota(pods=("10", "6")), r"adds 5 pods, which ask for 5 of pods, but quota 'team' has 4 of 10 left"),
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
    with pytest.raises(CapacityError, match=r"no node has room for a ranker of 1 CPU and 1.00 GiB.*of 4 nodes"):
        forecast(release(1), nothing_there(), config, room(nodes=small))
    forecast(release(1), nothing_there(), config, room(nodes=[*small, node("n4", cpu="64", memory="1900Mi")]))


def test_what_runs_on_a_node_counts(release: Make, config: DeployConfig) -> None:
    running = {
        "spec": {"nodeName": "one", "containers": [{"resources": {"requests": {"memory": "5Gi", "cpu": "1"}}}]},
        "status": {"phase": "Running"},
    }
    nodes = [node("one", cpu="64", memory="9Gi")]
    ended = {**running, "status": {"phase": "Succeeded"}}
    forecast(release(1), nothing_there(), config, room(nodes=nodes, pods=[ended]))
    with pytest.raises(CapacityError, match="no node has room"):
        forecast(release(1), nothing_there(), config, room(nodes=nodes, pods=[running]))


@pytest.mark.parametrize("spoil", [{"spec": {"unschedulable": True}}, {"spec": {"taints": [{"effect": "NoSchedule"}]}}])
def test_nodes_that_take_no_pods_do_not_count(release: Make, config: DeployConfig, spoil: Any) -> None:
    with pytest.raises(CapacityError, match="of 0 nodes"):
        forecast(release(1), nothing_there(), config, room(nodes=[{**node("one", cpu="64", memory="256Gi"), **spoil}]))


def test_what_an_account_may_not_see_is_said_to_be_unchecked(release: Make, config: DeployConfig) -> None:
    blind = Room(quotas=None, nodes=None, pods=None)
    assert "not checked: quotas (no right to read them), nodes" in str(
        forecast(release(1), nothing_there(), config, blind)
    )
    assert "nodes_must_fit is off" in str(
        forecast(release(1), nothing_there(), DeployConfig(nodes_must_fit=False), room(nodes=[]))
    )
