import contextlib
import json
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from exfm.deploy import rollout
from exfm.deploy.cluster import Cluster
from exfm.deploy.config import DeployConfig, RankerResources, ShardResources
from exfm.deploy.objects import HISTORY_ANNOTATION, SETTINGS_ANNOTATION, ranker_object, release_objects
from exfm.deploy.observation import observe
from exfm.deploy.release import Release, switched
from exfm.deploy.rollout import collect, remove, roll_out
from exfm.deploy.stage import roll_back
from exfm.deploy.status import deployed
from exfm.errors import CapacityError, ConfigError, DeployError, RolloutError
from exfm.models.config import ShardsConfig
from simulated_cluster import KilledError, Pod, SimulatedCluster, node, of_model

Make = Callable[[int], Release]


def as_cluster(cluster: SimulatedCluster) -> Cluster:
    return cast(Cluster, cluster)


def deploy(cluster: SimulatedCluster, release: Release, config: DeployConfig) -> list[str]:
    lines: list[str] = []
    roll_out(as_cluster(cluster), release, config, report=lines.append)
    return lines


def current(cluster: SimulatedCluster) -> int:
    history = observe(as_cluster(cluster), "students").history
    assert history is not None
    return history.current.release.version


def state(cluster: SimulatedCluster) -> str:
    return json.dumps([{k: v for k, v in item.items() if k != "status"} for item in cluster.objects.values()])


def back(cluster: SimulatedCluster, *, to: int = 0) -> None:
    roll_back(as_cluster(cluster), "students", to=to, config=None, report=lambda line: None)


def gather(cluster: SimulatedCluster, config: DeployConfig | None, *, with_unfinished: bool = False) -> None:
    collect(as_cluster(cluster), "students", config=config, with_unfinished=with_unfinished, report=lambda line: None)
    cluster.rest()


def ranker_cpu(cluster: SimulatedCluster) -> str:
    model = cluster.objects["InferenceService", "students"]["spec"]["predictor"]["model"]
    cpu: str = model["resources"]["requests"]["cpu"]
    return cpu


def cold(config: DeployConfig) -> DeployConfig:
    return config.model_copy(update={"hot_s": 0})


def with_cpu(config: DeployConfig, cpu_m: int) -> DeployConfig:
    return config.model_copy(update={"ranker": config.ranker.model_copy(update={"cpu_request_m": cpu_m})})


def made_by_an_earlier_release(cluster: SimulatedCluster) -> None:
    """Have the rankers be as a release made them that knew of transports and of a cache."""
    ranker = cluster.objects["InferenceService", "students"]
    history = json.loads(ranker["metadata"]["annotations"][HISTORY_ANNOTATION])
    for switch in history["switches"]:
        switch["settings"]["transport"] = "grpc"
        switch["settings"]["ranker"]["cache_mib"] = 0
    ranker["metadata"]["annotations"][HISTORY_ANNOTATION] = json.dumps(history)
    predictor = ranker["spec"]["predictor"]
    predictor["annotations"][SETTINGS_ANNOTATION] = "earlier"
    predictor["model"]["args"] = [arg.replace(":8082", ":8081") for arg in ranker_args(cluster)] + ["--transport=grpc"]
    for _ in range(5):
        cluster.rest()
    assert {pod.annotations[SETTINGS_ANNOTATION] for pod in ranker_pods(cluster)} == {"earlier"}


def ranker_pods(cluster: SimulatedCluster) -> list[Pod]:
    return [pod for pod in cluster.pods if pod.service == "students"]


def ranker_args(cluster: SimulatedCluster) -> list[str]:
    args: list[str] = cluster.objects["InferenceService", "students"]["spec"]["predictor"]["model"]["args"]
    return args


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
    before, pods = state(cluster), [pod.name for pod in cluster.pods]
    deploy(cluster, release(1), config)
    assert (state(cluster), [pod.name for pod in cluster.pods]) == (before, pods)


def test_the_version_before_stays_hot_and_older_ones_are_removed(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    for version in (1, 2, 3):
        deploy(cluster, release(version), config)
    cluster.rest()
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
    back(cluster)
    assert current(cluster) == 1
    assert cluster.served == [1, 2, 1]
    assert cluster.num_writes - before == 2 * 3 + 2  # two shards, the ranker and what they own, all applied as they are


def test_a_cold_rollback_brings_the_shards_back(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    for version in (1, 2, 3):
        deploy(cluster, release(version), config)
    back(cluster, to=1)
    assert current(cluster) == 1
    assert "students-v1-s0" in cluster.names()


def test_a_rollback_to_an_unknown_version_names_the_known_ones(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    with pytest.raises(DeployError, match=r"has no version 7 in its history, which has v1"):
        back(cluster, to=7)
    with pytest.raises(DeployError, match="has no version before it in its history"):
        back(cluster)


@pytest.mark.parametrize("component", ["shard", "ranker"])
def test_a_failed_rollout_leaves_the_old_version_and_nothing_of_the_new_one(
    release: Make, config: DeployConfig, component: str
) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    cluster.broken[2, component] = "error: task 'like' is scored 0.3, expected 0.2"
    with pytest.raises(RolloutError, match=r"task 'like' is scored 0.3.*students v1 keeps serving") as raised:
        deploy(cluster, release(2), config)
    assert "students v2 is not serving" in str(raised.value)
    assert cluster.names() == ["students", "students-v1-s0", "students-v1-s1"]
    assert current(cluster) == 1
    assert cluster.ready_rankers() == [1, 1]
    assert cluster.served == [1]


def test_a_failed_rollout_removes_no_hot_version(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    cluster.broken[3, "ranker"] = "error: no"
    with pytest.raises(RolloutError, match="students v2 keeps serving"):
        deploy(cluster, release(3), config)
    assert cluster.names() == [
        "students", "students-v1-s0", "students-v1-s1", "students-v2-s0", "students-v2-s1"
    ]  # fmt: skip


def test_a_failed_hot_rollback_can_be_tried_again(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    cluster.broken[1, "ranker"] = "error: for a moment"
    with pytest.raises(RolloutError, match="students v2 keeps serving"):
        back(cluster)
    assert "students-v1-s0" in cluster.names()
    cluster.broken = {}
    back(cluster)
    assert current(cluster) == 1


def test_a_refused_deployment_leaves_the_shards_of_its_version(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    cluster.calls_until_killed = 20
    with pytest.raises(KilledError):
        deploy(cluster, release(1), config)
    cluster.calls_until_killed = -1
    before = cluster.names()
    other = release(1).model_copy(update={"bundle_id": "f" * 64})
    with pytest.raises(RolloutError, match="version 1 is deployed already, from bundle"):
        deploy(cluster, other, config)
    assert cluster.names() == before
    assert before


def test_a_failed_cold_rollback_leaves_no_shard_of_its_version(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    gather(cluster, cold(config))
    cluster.broken[1, "shard"] = "error: no such file"
    with pytest.raises(RolloutError, match="students v2 keeps serving"):
        back(cluster, to=1)
    assert cluster.names() == ["students", "students-v2-s0", "students-v2-s1"]


@pytest.mark.parametrize("component", ["shard", "ranker"])
def test_a_failed_first_rollout_leaves_nothing(release: Make, config: DeployConfig, component: str) -> None:
    cluster = SimulatedCluster(broken={(1, component): "error: the bundle is damaged"})
    with pytest.raises(RolloutError, match=r"the bundle is damaged.*its servers are removed"):
        deploy(cluster, release(1), config)
    assert of_model(cluster, "students") == []


DENIED = 'admission webhook "pod-mutator" denied the request: secrets "exfm-s3" not found'


def test_a_missing_secret_is_reported_at_once_and_nothing_is_left(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster(denied=DENIED)
    lines: list[str] = []
    with pytest.raises(RolloutError, match=r"Secret exfm-s3 is missing in namespace exfm.*its servers are removed"):
        roll_out(as_cluster(cluster), release(1), config, report=lines.append)
    assert lines[-1].startswith("students v1: Secret exfm-s3 is missing in namespace exfm")
    assert lines[-1].endswith("; undoing the rollout")
    assert cluster.objects == {}


def test_a_secret_that_goes_missing_affects_only_the_new_version(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    cluster.denied = DENIED
    with pytest.raises(RolloutError, match=r"Secret exfm-s3 is missing.*; students v1 keeps serving"):
        deploy(cluster, release(2), config)
    assert cluster.ready_rankers() == [1, 1]
    cluster.denied = ""
    deploy(cluster, release(2), config)
    assert cluster.ready_rankers() == [2, 2]


def test_a_version_that_served_well_is_not_taken_back_when_it_breaks_later(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    cluster.outage = True
    cluster.broken = {(2, "ranker"): "error: disk", (2, "shard"): "error: disk"}
    with pytest.raises(RolloutError, match=r"students v2 does not serve as configured: .*error: disk"):
        deploy(cluster, release(2), config)
    assert current(cluster) == 2
    assert "students-v2-s0" in cluster.names()


def calls_of(cluster: SimulatedCluster, release: Release, config: DeployConfig) -> range:
    """Deploy, and return the numbers of the calls that it took."""
    first = cluster.num_calls
    with contextlib.suppress(RolloutError):
        deploy(cluster, release, config)
    return range(first, cluster.num_calls)


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_undo_killed_anywhere_ends_with_the_old_version_when_it_is_run_again(
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


def killed_while_it_began(release: Make, config: DeployConfig, *, age_s: float = 0.0) -> SimulatedCluster:
    """Return a cluster with version 1 serving, and shards of version 2, whose deployment was killed `age_s` ago."""
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    cluster.age_s = age_s
    cluster.calls_until_killed = cluster.num_calls + 20
    with pytest.raises(KilledError):
        deploy(cluster, release(2), config)
    cluster.age_s, cluster.calls_until_killed = 0.0, -1
    assert "students-v2-s0" in cluster.names()
    return cluster


def test_shards_of_a_killed_deployment_are_removed_after_its_timeout(release: Make, config: DeployConfig) -> None:
    cluster = killed_while_it_began(release, config, age_s=config.ready_timeout_s + 1)
    deploy(cluster, release(3), config)
    assert [name for name in cluster.names() if "-v2-" in name] == []
    assert current(cluster) == 3


def test_shards_of_a_deployment_that_may_be_under_way_stay_without_unfinished(
    release: Make, config: DeployConfig
) -> None:
    cluster = killed_while_it_began(release, config)
    deploy(cluster, release(3), config)
    gather(cluster, config)
    assert "students-v2-s0" in cluster.names()
    gather(cluster, config, with_unfinished=True)
    assert "students-v2-s0" not in cluster.names()
    assert "students-v1-s0" in cluster.names()


def test_of_two_deployments_at_a_time_the_last_to_switch_wins_and_the_other_says_so(
    release: Make, config: DeployConfig
) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)

    def report(line: str) -> None:
        if line.endswith("1 of 2 rankers switched"):
            deploy(cluster, release(3), config)

    with pytest.raises(RolloutError, match=r"another deployment switched to students v3 meanwhile; .*v3 keeps serving"):
        roll_out(as_cluster(cluster), release(2), config, report=report)
    assert current(cluster) == 3
    assert cluster.ready_rankers() == [3, 3]


def test_a_deployment_of_the_serving_version_does_not_undo_anothers_switch(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)

    def report(line: str) -> None:
        if line.endswith("1 of 2 rankers switched"):
            back(cluster)

    with pytest.raises(RolloutError, match=r"another deployment switched to students v1 meanwhile; .*v1 keeps serving"):
        roll_out(as_cluster(cluster), release(2), with_cpu(config, 1_500), report=report)
    assert current(cluster) == 1
    assert cluster.ready_rankers() == [1, 1]


def test_each_ranker_that_is_replaced_has_the_whole_timeout(
    release: Make, config: DeployConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = SimulatedCluster()
    many = config.model_copy(update={"ranker": RankerResources(replicas=6)})
    deploy(cluster, release(1), many)
    now_s = 0.0

    def sleep(_: float) -> None:
        nonlocal now_s
        now_s += 0.15 * many.ready_timeout_s

    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: now_s, time=time.time)
    monkeypatch.setattr(rollout, "time", clock)
    lines = deploy(cluster, release(2), many)
    assert lines[-1].startswith("students v2: serving")
    assert now_s > many.ready_timeout_s


def test_new_settings_of_the_serving_version_are_in_place_when_it_is_reported_as_serving(
    release: Make, config: DeployConfig
) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    before = {pod.name for pod in cluster.pods if pod.ready}
    deploy(cluster, release(1), with_cpu(config, 1_500))
    rankers = [pod.name for pod in cluster.pods if pod.ready and pod.service == "students"]
    assert len(rankers) == 2
    assert not before & set(rankers)
    assert ranker_cpu(cluster) == "1500m"


def shard_memory(cluster: SimulatedCluster) -> str:
    model = cluster.objects["InferenceService", "students-v2-s0"]["spec"]["predictor"]["model"]
    memory: str = model["resources"]["requests"]["memory"]
    return memory


@pytest.mark.parametrize(
    ("component", "changed"),
    [
        ("ranker", lambda config: with_cpu(config, 1_500)),
        ("shard", lambda config: config.model_copy(update={"shard": ShardResources(overhead_mib=256)})),
        ("ranker", lambda config: config.model_copy(update={"ranker": RankerResources(replicas=3)})),
    ],
)
def test_settings_that_do_not_work_are_taken_back(
    release: Make, config: DeployConfig, component: str, changed: Callable[[DeployConfig], DeployConfig]
) -> None:
    cluster = SimulatedCluster()
    for version in (1, 2):
        deploy(cluster, release(version), config)
    cluster.sturdy = True
    cluster.broken[2, component] = "error: no such device"
    with pytest.raises(
        RolloutError, match=r"does not serve as configured: .*no such device.*; its servers stay as they"
    ):
        deploy(cluster, release(2), changed(config))
    assert current(cluster) == 2
    assert ranker_cpu(cluster) == "1000m"
    assert shard_memory(cluster) == f"{config.shard.overhead_mib + 3}Mi"
    cluster.broken = {}
    cluster.rest()
    deploy(cluster, release(2), config)  # there is nothing to mend
    assert cluster.ready_rankers() == [2, 2]


def test_settings_that_repair_a_version_are_applied_while_it_has_problems(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    cluster.outage = True
    cluster.broken[1, "ranker"] = "error: out of memory"
    cluster.rest()

    def report(line: str) -> None:
        if line.endswith("rankers switched"):
            cluster.broken = {}

    roll_out(as_cluster(cluster), release(1), with_cpu(config, 1_500), report=report)
    assert ranker_cpu(cluster) == "1500m"


def test_fewer_rankers_are_there_when_a_version_is_reported_as_serving(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config.model_copy(update={"ranker": RankerResources(replicas=3)}))
    deploy(cluster, release(1), config)
    assert cluster.ready_rankers() == [1, 1]


def test_a_version_whose_switch_never_ended_is_not_rolled_back_to(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    cluster.broken[2, "ranker"] = "error: no"

    def report(line: str) -> None:
        if line.endswith("rankers switched"):
            raise KilledError

    with pytest.raises(KilledError):
        roll_out(as_cluster(cluster), release(2), config, report=report)
    cluster.broken[3, "ranker"] = "error: no"
    with pytest.raises(RolloutError, match="students v1 keeps serving"):
        deploy(cluster, release(3), config)
    del cluster.broken[3, "ranker"]
    deploy(cluster, release(3), config)
    back(cluster)
    assert current(cluster) == 1


def test_a_cold_rollback_under_way_is_left_alone_by_a_collector(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    for version in (1, 2, 3):
        deploy(cluster, release(version), config)
    cluster.rest()
    assert "students-v1-s0" not in cluster.names()
    found: list[str] = []

    def report(line: str) -> None:
        if "shards ready" in line and not found:
            collect(as_cluster(cluster), "students", config=cold(config), with_unfinished=False, report=found.append)

    roll_back(as_cluster(cluster), "students", to=1, config=None, report=report)
    assert found == ["students: removing the shards of v2"]
    assert cluster.served[-1] == 1


def test_evicted_pods_do_not_count(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    labels, annotations = cluster.pods[-1].labels, cluster.pods[-1].annotations
    cluster.evicted.append({"metadata": {"name": "e", "labels": labels, "annotations": annotations}})
    deploy(cluster, release(2), config)
    gather(cluster, cold(config))
    assert "students-v1-s0" not in cluster.names()


def test_hot_s_is_that_of_the_deployment_unless_settings_are_given(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), cold(config))
    deploy(cluster, release(2), config)
    gather(cluster, None)
    assert "students-v1-s0" in cluster.names()
    gather(cluster, cold(config))
    assert "students-v1-s0" not in cluster.names()


def test_shards_of_a_killed_first_deployment_can_be_collected(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster(calls_until_killed=20)
    with pytest.raises(KilledError):
        deploy(cluster, release(1), config)
    cluster.calls_until_killed = -1
    gather(cluster, None, with_unfinished=True)
    assert of_model(cluster, "students") == []


def test_an_api_server_that_fails_once_a_version_serves_undoes_nothing(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    for version in (1, 2):
        deploy(cluster, release(version), config)
    cluster.undeletable = "DELETE InferenceService is refused"
    lines = deploy(cluster, release(3), config)
    assert lines[-1] == "students v3: serving, but DELETE InferenceService is refused"
    assert current(cluster) == 3


def test_a_rollback_restores_the_settings(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), with_cpu(config, 1_100))
    shards = [pod.name for pod in cluster.pods if "-s" in pod.service]
    deploy(cluster, release(2), with_cpu(config, 1_200))
    back(cluster)
    assert ranker_cpu(cluster) == "1100m"
    assert [pod.name for pod in cluster.pods if "-v1-s" in pod.service] == shards


def test_a_failed_rollout_restores_the_settings_of_the_serving_version(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), with_cpu(config, 1_100))
    cluster.broken[2, "ranker"] = "error: no"
    with pytest.raises(RolloutError):
        deploy(cluster, release(2), with_cpu(config, 1_200))
    assert ranker_cpu(cluster) == "1100m"


def test_a_new_uri_of_the_serving_bundle_is_remembered(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    moved = release(1).model_copy(update={"uri": "pvc://claim/students-1"})
    deploy(cluster, moved, config)
    deploy(cluster, release(2), config)
    gather(cluster, cold(config))
    back(cluster, to=1)
    shard = cluster.objects["InferenceService", "students-v1-s0"]
    assert shard["spec"]["predictor"]["model"]["storageUri"] == "pvc://claim/students-1"


def test_rankers_of_before_that_never_end_do_not_undo_a_rollout(
    release: Make, config: DeployConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "ENDING_TIMEOUT_S", 0.05)
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    cluster.stuck = True
    lines = deploy(cluster, release(2), config)
    assert re.fullmatch(r"students v2: serving; after .* 2 rankers of the version before are ending still.*", lines[-1])
    assert current(cluster) == 2
    assert "students-v1-s0" in cluster.names()


def test_a_rollout_that_an_api_server_refuses_in_the_middle_is_undone(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    cluster.refused["students-v2-s1"] = "PATCH InferenceService students-v2-s1 failed: denied by policy"
    with pytest.raises(RolloutError, match=r"denied by policy; its servers are removed; students v1 keeps serving"):
        deploy(cluster, release(2), config)
    assert cluster.names() == ["students", "students-v1-s0", "students-v1-s1"]


def test_a_failed_undo_is_reported_with_the_first_reason(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    cluster.broken[2, "ranker"] = "error: damaged"

    def report(line: str) -> None:
        if line.endswith("rankers switched"):
            cluster.refused["students"] = "the API server is away"

    with pytest.raises(RolloutError, match=r"error: damaged.*undoing the rollout failed, too \(the API server is away"):
        roll_out(as_cluster(cluster), release(2), config, report=report)


def test_a_rollout_waits_until_collected_servers_have_ended(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster(nodes=[node("one", cpu="64", memory="256Gi")])
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    cluster.quota_pods = 5 + 3 + 2  # version 2, and the shards of version 1; room for two more
    with pytest.raises(CapacityError, match="adds 5 pods"):
        deploy(cluster, release(3), config)
    deploy(cluster, release(3), cold(config))
    assert current(cluster) == 3


def test_one_version_cannot_mean_two_bundles(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    other = release(1).model_copy(update={"bundle_id": "f" * 64})
    before = cluster.num_writes
    with pytest.raises(RolloutError, match="version 1 is deployed already, from bundle 000000000000 and not from ffff"):
        deploy(cluster, other, config)
    assert cluster.num_writes == before
    assert current(cluster) == 1
    assert cluster.names() == ["students", "students-v1-s0", "students-v1-s1"]


@pytest.mark.slow
def test_of_two_bundles_that_take_one_version_at_a_time_the_later_one_is_refused(
    release: Make, config: DeployConfig
) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    other = release(2).model_copy(update={"bundle_id": "f" * 64})
    said: list[str] = []

    def report(line: str) -> None:
        if not said:  # of the room that there is; what follows is the first write
            deploy(cluster, release(2), config)
        said.append(line)

    with pytest.raises(
        RolloutError, match=r"version 2 is deployed already, from bundle 0000.*; students v2 keeps serving"
    ):
        roll_out(as_cluster(cluster), other, config, report=report)
    history = observe(as_cluster(cluster), "students").history
    assert history is not None
    assert history.current.release.bundle_id == release(2).bundle_id


def test_a_rollout_that_a_quota_cannot_hold_makes_nothing(release: Make, config: DeployConfig) -> None:
    quota: Any = {
        "metadata": {"name": "team"},
        "status": {"hard": {"requests.memory": "4Gi"}, "used": {"requests.memory": "1Gi"}},
    }
    cluster = SimulatedCluster(quotas=[quota])
    with pytest.raises(CapacityError, match=r"quota 'team' has 3.00 GiB of 4.00 GiB left"):
        deploy(cluster, release(1), config)
    assert cluster.num_writes == 0


def test_a_rollout_whose_rankers_would_not_find_their_tables_makes_nothing(release: Make) -> None:
    keeping = DeployConfig(ranker=RankerResources(shards=ShardsConfig(local_tables_mib=40)))
    cluster = SimulatedCluster()
    with pytest.raises(ConfigError, match=r"local_tables_mib is 40, but a ranker copies only its own part of s3://"):
        deploy(cluster, release(1), keeping)
    assert cluster.num_writes == 0


def test_versions_are_collected_after_hot_s(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    gather(cluster, config)
    assert "students-v1-s0" in cluster.names()
    gather(cluster, cold(config))
    assert "students-v1-s0" not in cluster.names()


def test_a_status_leaves_out_other_inference_services(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    foreign = {"kind": "InferenceService", "metadata": {"name": "somebodys"}, "spec": {}}
    cluster.objects["InferenceService", "somebodys"] = foreign
    assert [(row.vm, row.version) for row in deployed(as_cluster(cluster))] == [("students", 1)]


def test_a_removed_model_leaves_nothing(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    remove(as_cluster(cluster), "students", config, report=lambda line: None)
    assert of_model(cluster, "students") == []
    with pytest.raises(DeployError, match="no vertical model 'students' is deployed"):
        remove(as_cluster(cluster), "students", config, report=lambda line: None)


def test_a_removed_model_leaves_no_rendered_object(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    for item in release_objects(switched(None, release(1), config, at_s=0)):
        cluster.apply(item)
    remove(as_cluster(cluster), "students", config, report=lambda line: None)
    assert of_model(cluster, "students") == []


def test_the_only_version_stays_when_all_its_servers_are_lost(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    cluster.outage = True
    cluster.broken = {(1, "ranker"): "error: disk", (1, "shard"): "error: disk"}
    with pytest.raises(RolloutError, match=r"does not serve as configured.*its servers stay as they are"):
        deploy(cluster, release(1), config)
    assert "students" in cluster.names()


def test_rankers_of_an_earlier_release_are_replaced_once(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    for version in (1, 2):
        deploy(cluster, release(version), config)
    made_by_an_earlier_release(cluster)
    before = {pod.name for pod in ranker_pods(cluster)}
    (serving, hot) = deployed(as_cluster(cluster))
    assert (serving.state, serving.version, hot.state, hot.version) == ("serving", 2, "hot", 1)
    lines = deploy(cluster, release(2), config)
    assert "students v2: 1 of 2 rankers switched" in lines
    assert lines[-1] == "students v2: serving"
    history = observe(as_cluster(cluster), "students").history
    assert history is not None
    assert [switch.release.version for switch in history.switches] == [2, 1]
    assert ranker_args(cluster) == ranker_object(history)["spec"]["predictor"]["model"]["args"]
    after = {pod.name for pod in ranker_pods(cluster)}
    assert not before & after
    deploy(cluster, release(2), config)
    assert {pod.name for pod in ranker_pods(cluster)} == after


def test_rankers_of_an_earlier_release_serve_on_while_new_ones_fail(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    for version in (1, 2):
        deploy(cluster, release(version), config)
    made_by_an_earlier_release(cluster)
    cluster.sturdy = True
    cluster.broken[2, "ranker"] = "error: no stream"
    for _ in range(2):  # neither time it goes back to the version before
        with pytest.raises(
            RolloutError, match=r"does not serve as configured: .*no stream.*; its servers stay as they"
        ):
            deploy(cluster, release(2), config)
        assert current(cluster) == 2
        assert cluster.ready_rankers() == [2, 2]
    cluster.broken = {}
    deploy(cluster, release(2), config)
    assert cluster.ready_rankers() == [2, 2]
    back(cluster)
    assert current(cluster) == 1


def test_the_only_version_serves_after_its_upgrade_failed(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    made_by_an_earlier_release(cluster)
    cluster.sturdy = True
    cluster.broken = {(version, "ranker"): "error: no stream" for version in (1, 2)}
    with pytest.raises(RolloutError, match=r"does not serve as configured: .*no stream.*; its servers stay as they"):
        deploy(cluster, release(1), config)
    served = observe(as_cluster(cluster), "students").served
    assert served is not None
    assert served.current.release.version == 1
    with pytest.raises(RolloutError, match="students v1 keeps serving"):
        deploy(cluster, release(2), config)
    assert current(cluster) == 1
    assert cluster.ready_rankers() == [1, 1]
    cluster.broken = {}
    deploy(cluster, release(2), config)
    back(cluster)
    assert current(cluster) == 1


def test_a_rendered_version_is_not_served_while_rankers_of_another_are(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster(broken={(2, "ranker"): "error: no"})
    for version in (1, 2):
        for item in release_objects(switched(None, release(version), config, at_s=0)):
            cluster.apply(item)
        cluster.rest()
    assert cluster.ready_rankers() == [1, 1]
    assert observe(as_cluster(cluster), "students").served is None


def test_a_failed_rollout_goes_back_to_a_version_of_an_earlier_release(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    made_by_an_earlier_release(cluster)
    cluster.broken[2, "ranker"] = "error: no"
    with pytest.raises(RolloutError, match="students v1 keeps serving"):
        deploy(cluster, release(2), config)
    deploy(cluster, release(1), config)
    assert cluster.ready_rankers() == [1, 1]
    assert "--transport=grpc" not in ranker_args(cluster)


def test_a_version_that_an_earlier_release_deployed_can_be_rolled_back_to(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    for version in (1, 2):
        deploy(cluster, release(version), config)
    made_by_an_earlier_release(cluster)
    back(cluster)
    assert current(cluster) == 1
    assert "--transport=grpc" not in ranker_args(cluster)


def test_a_rankers_history_is_an_annotation(release: Make, config: DeployConfig) -> None:
    cluster = SimulatedCluster()
    deploy(cluster, release(1), config)
    deploy(cluster, release(2), config)
    text = cluster.objects["InferenceService", "students"]["metadata"]["annotations"][HISTORY_ANNOTATION]
    assert [switch["release"]["version"] for switch in json.loads(text)["switches"]] == [2, 1]
