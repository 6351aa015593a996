import contextlib
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from simulated_cluster import KilledError, SimulatedCluster, of_model

from exfm.deploy.cluster import Cluster
from exfm.deploy.config import DeployConfig
from exfm.deploy.objects import HISTORY_ANNOTATION
from exfm.deploy.observation import observe
from exfm.deploy.release import Release
from exfm.deploy.rollout import collect, remove, roll_out
from exfm.deploy.stage import roll_back
from exfm.errors import CapacityError, DeployError, RolloutError

Make = Callable[[int], Release]


def as_cluster(cluster: SimulatedCluster) -> Cluster:
    return cast(Cluster, cluster)


def deploy(cluster: SimulatedCluster, release: Release, config: DeployConfig) -> list[str]:
    lines: list[str] = []
    roll_out(as_cluster(cluster), release, config, say=lines.append)
    return lines


def current(cluster: SimulatedCluster) -> int:
    history = observe(as_cluster(cluster), "students").history
    assert history is not None
    return history.current.release.version


def test_a_first_rollout_ends_with_all_rankers_on_its_version(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    lines = deploy(cluster, release(1), config)
    assert cluster.names() == ["students", "students-v1-s0", "students-v1-s1"]
    assert cluster.ready_rankers() == [1, 1]
    assert lines[0].startswith("students v1: peak memory ")
    assert lines[-1] == "students v1: serving"


def test_applying_twice_changes_nothing(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    before = json.dumps([{k: v for k, v in item.items() if k != "status"} for item in cluster.objects.values()])
    deploy(cluster, release(1), config)
    assert before == json.dumps([{k: v for k, v in item.items() if k != "status"} for item in cluster.objects.values()])


def test_the_version_before_stays_hot_and_older_ones_go(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    for version in (1, 2, 3):
        deploy(cluster, release(version), config)
    assert cluster.names() == [
        "students",
        *(f"students-v2-s{shard}" for shard in range(2)),
        *(f"students-v3-s{shard}" for shard in range(2)),
    ]
    assert cluster.served == [1, 2, 3]


def test_a_hot_rollback_creates_no_shard(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    before = cluster.num_writes
    roll_back(as_cluster(cluster), "students", config, to=0, say=lambda line: None)
    assert current(cluster) == 1
    assert cluster.served == [1, 2, 1]
    assert cluster.num_writes - before == 2 * 2 + 1  # two shards and their Services applied as they are, and the ranker


def test_a_cold_rollback_brings_the_shards_back(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    for version in (1, 2, 3):
        deploy(cluster, release(version), config)
    roll_back(as_cluster(cluster), "students", config, to=1, say=lambda line: None)
    assert current(cluster) == 1
    assert "students-v1-s0" in cluster.names()


def test_a_rollback_to_a_version_that_nobody_remembers_names_those_that_are(
    release: Make, config: DeployConfig
) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    with pytest.raises(DeployError, match=r"remembers no version 7; it knows v1"):
        roll_back(as_cluster(cluster), "students", config, to=7, say=lambda line: None)
    with pytest.raises(DeployError, match="remembers no version before it"):
        roll_back(as_cluster(cluster), "students", config, to=0, say=lambda line: None)


@pytest.mark.parametrize("component", ["shard", "ranker"])
def test_a_failed_rollout_leaves_the_old_version_and_nothing_of_the_new_one(
    release: Make, config: DeployConfig, component: str
) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    cluster.broken[2, component] = "error: task 'like' is scored 0.3, expected 0.2"
    with pytest.raises(RolloutError, match=r"task 'like' is scored 0.3.*students v1 serves on") as raised:
        deploy(cluster, release(2), config)
    assert "students v2 is not serving" in str(raised.value)
    assert cluster.names() == ["students", "students-v1-s0", "students-v1-s1"]
    assert current(cluster) == 1
    assert cluster.ready_rankers() == [1, 1]
    assert cluster.served == [1]


def test_a_failed_rollout_takes_no_hot_version_with_it(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    cluster.broken[3, "ranker"] = "error: no"
    with pytest.raises(RolloutError, match="students v2 serves on"):
        deploy(cluster, release(3), config)
    assert cluster.names() == [
        "students", "students-v1-s0", "students-v1-s1", "students-v2-s0", "students-v2-s1"
    ]  # fmt: skip


def test_a_failed_hot_rollback_can_be_tried_again(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    cluster.broken[1, "ranker"] = "error: for a moment"
    with pytest.raises(RolloutError, match="students v2 serves on"):
        roll_back(as_cluster(cluster), "students", config, to=0, say=lambda line: None)
    assert "students-v1-s0" in cluster.names()
    cluster.broken = {}
    roll_back(as_cluster(cluster), "students", config, to=0, say=lambda line: None)
    assert current(cluster) == 1


def test_who_is_refused_a_version_leaves_another_ones_shards_alone(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    cluster.calls_until_killed = 20
    with pytest.raises(KilledError):
        deploy(cluster, release(1), config)
    cluster.calls_until_killed = -1
    before = cluster.names()
    other = release(1).model_copy(update={"bundle_id": "f" * 64})
    with pytest.raises(RolloutError, match="version 1 is deployed from bundle"):
        deploy(cluster, other, config)
    assert cluster.names() == before
    assert before


def test_a_failed_cold_rollback_leaves_no_shard_of_its_version(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    collect(as_cluster(cluster), "students", config.model_copy(update={"hot_s": 0}), say=lambda line: None)
    cluster.broken[1, "shard"] = "error: no such file"
    with pytest.raises(RolloutError, match="students v2 serves on"):
        roll_back(as_cluster(cluster), "students", config, to=1, say=lambda line: None)
    assert cluster.names() == ["students", "students-v2-s0", "students-v2-s1"]


@pytest.mark.parametrize("component", ["shard", "ranker"])
def test_a_failed_first_rollout_leaves_nothing(release: Make, config: DeployConfig, component: str) -> None:
    cluster = SimulatedCluster(broken={(1, component): "error: the bundle is damaged"})
    with pytest.raises(RolloutError, match=r"the bundle is damaged.*nothing of it was left behind"):
        deploy(cluster, release(1), config)
    assert of_model(cluster, "students") == []


def test_a_version_that_served_well_is_not_taken_back_when_it_breaks_later(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    cluster.outage = True
    cluster.broken = {(2, "ranker"): "error: disk", (2, "shard"): "error: disk"}
    with pytest.raises(RolloutError, match=r"error: disk.*students v2 serves on"):
        deploy(cluster, release(2), config)
    assert current(cluster) == 2
    assert "students-v2-s0" in cluster.names()


def calls_of(cluster: SimulatedCluster, release: Release, config: DeployConfig) -> range:
    """Deploy, and return the numbers of the calls that it took."""
    first = cluster.num_calls
    with contextlib.suppress(RolloutError):
        deploy(cluster, release, config)
    return range(first, cluster.num_calls)


def test_a_deployment_killed_anywhere_converges_when_it_is_run_again(release: Make, config: DeployConfig) -> None:
    def start() -> SimulatedCluster:
        cluster = SimulatedCluster()
        deploy(cluster, release(1), config)
        return cluster

    calls = calls_of(start(), release(2), config)
    assert len(calls) > 20
    for call in calls:
        cluster = start()
        cluster.calls_until_killed = call
        with pytest.raises(KilledError):
            deploy(cluster, release(2), config)
        cluster.calls_until_killed = -1
        deploy(cluster, release(2), config)
        assert current(cluster) == 2
        assert cluster.ready_rankers() == [2, 2]
        assert cluster.served == [1, 2]


def test_an_undoing_killed_anywhere_ends_with_the_old_version_when_it_is_run_again(
    release: Make, config: DeployConfig
) -> None:
    def start() -> SimulatedCluster:
        cluster = SimulatedCluster()
        deploy(cluster, release(1), config)
        cluster.broken[2, "ranker"] = "error: no"
        return cluster

    calls = calls_of(start(), release(2), config)
    assert len(calls) > 20
    for call in calls:
        cluster = start()
        cluster.calls_until_killed = call
        with pytest.raises(KilledError):
            deploy(cluster, release(2), config)
        cluster.calls_until_killed = -1
        with pytest.raises(RolloutError):
            deploy(cluster, release(2), config)
        assert cluster.names() == ["students", "students-v1-s0", "students-v1-s1"]
        assert cluster.served == [1]


def test_another_version_may_follow_one_whose_deployment_was_killed(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    cluster.calls_until_killed = cluster.num_calls + 20
    with pytest.raises(KilledError):
        deploy(cluster, release(2), config)
    cluster.calls_until_killed = -1
    deploy(cluster, release(3), config)
    assert [name for name in cluster.names() if "-v2-" in name] == []
    assert current(cluster) == 3


def test_one_version_cannot_mean_two_bundles(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    other = release(1).model_copy(update={"bundle_id": "f" * 64})
    with pytest.raises(RolloutError, match="version 1 is deployed from bundle 000000000000 already, not from ffff"):
        deploy(cluster, other, config)
    assert current(cluster) == 1
    assert cluster.names() == ["students", "students-v1-s0", "students-v1-s1"]


def test_a_rollout_that_a_quota_cannot_hold_makes_nothing(release: Make, config: DeployConfig) -> None:
    quota: Any = {
        "metadata": {"name": "team"},
        "status": {"hard": {"requests.memory": "4Gi"}, "used": {"requests.memory": "1Gi"}},
    }
    cluster = SimulatedCluster(quotas=[quota])
    with pytest.raises(CapacityError, match=r"quota 'team' has 3.00 GiB of 4.00 GiB left"):
        deploy(cluster, release(1), config)
    assert cluster.num_writes == 0


def test_versions_that_stayed_their_time_are_collected(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    collect(as_cluster(cluster), "students", config, say=lambda line: None)
    assert "students-v1-s0" in cluster.names()
    collect(as_cluster(cluster), "students", config.model_copy(update={"hot_s": 0}), say=lambda line: None)
    assert "students-v1-s0" not in cluster.names()


def test_a_removed_model_leaves_nothing(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    remove(as_cluster(cluster), "students", config, say=lambda line: None)
    assert of_model(cluster, "students") == []
    with pytest.raises(DeployError, match="no vertical model 'students' is deployed"):
        remove(as_cluster(cluster), "students", config, say=lambda line: None)


def test_a_rankers_history_is_an_annotation(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    text = cluster.objects["InferenceService", "students"]["metadata"]["annotations"][HISTORY_ANNOTATION]
    assert [switch["release"]["version"] for switch in json.loads(text)["switches"]] == [2, 1]
