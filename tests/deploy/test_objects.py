import json
import re
from collections.abc import Callable, Mapping
from typing import cast

import pytest

from exfm.artifact.bundle import BundleManifest
from exfm.deploy.config import DeployConfig, RankerResources, ShardResources
from exfm.deploy.objects import Object, ranker_object, release_objects, settings_of, shard_objects, with_owner
from exfm.deploy.release import History, Release, choose_version, make_release, served_uri, switched
from exfm.deploy.render import to_yaml
from exfm.errors import BundleError, ConfigError
from exfm.models.config import ShardsConfig
from exfm.serving.config import RankerConfig

Make = Callable[[int], Release]


def history_of(release: Release, config: DeployConfig | None = None) -> History:
    return switched(None, release, config or DeployConfig(), at_s=0)


def predictor(object_: Object) -> Object:
    found: Object = object_["spec"]["predictor"]
    return found


def test_names_are_dns_labels_with_kserves_suffixes(release: Make, config: DeployConfig) -> None:
    longest = release(999_999).model_copy(update={"vm": "a" * 30, "shard_bytes": (1,) * 1024, "replicas": (1,) * 1024})
    for item in release_objects(history_of(longest, config)):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", item["metadata"]["name"])
        assert len(item["metadata"]["name"] + "-predictor") <= 63


def test_a_ranker_names_the_shards_of_its_version_in_order(release: Make, config: DeployConfig) -> None:
    model = predictor(ranker_object(history_of(release(12), config)))["model"]
    assert model["args"] == [
        "--shards=students-v12-s0-grpc.exfm.svc:8082,students-v12-s1-grpc.exfm.svc:8082",
        f"--bundle-id={12:064x}",
        "--when-shard-fails=fail",
    ]


def test_a_shards_service_offers_lookups_to_rankers_and_requests_by_hand(release: Make, config: DeployConfig) -> None:
    _, headless, _ = shard_objects(release(12), 0, config)
    assert {port["name"]: port["targetPort"] for port in headless["spec"]["ports"]} == {"grpc": 8081, "stream": 8082}


def test_a_history_of_an_earlier_release_is_read_without_settings_that_are_gone(release: Make) -> None:
    history = switched(history_of(release(1)), release(2), DeployConfig(hot_s=7), at_s=5)
    earlier = json.loads(history.text())
    for switch in earlier["switches"]:
        switch["settings"]["transport"] = "grpc"
        switch["settings"]["ranker"]["cache_mib"] = 128
    assert History.read(json.dumps(earlier), source="annotation") == history


def test_a_history_of_the_release_before_keeps_the_rankers_settings_for_shards(release: Make) -> None:
    told = RankerResources(shards=ShardsConfig(when_shard_fails="degrade", local_tables_mib=40))
    mounted = release(1).model_copy(update={"uri": "pvc://models/students"})
    history = history_of(mounted, DeployConfig(ranker=told))
    earlier = json.loads(history.text())
    [switch] = earlier["switches"]
    of_shards = switch["settings"]["ranker"].pop("shards")
    switch["settings"]["when_shard_fails"] = of_shards.pop("when_shard_fails")
    switch["settings"]["ranker"] |= of_shards
    assert History.read(json.dumps(earlier), source="annotation") == history


def test_a_history_with_unknown_settings_is_refused(release: Make) -> None:
    damaged = json.loads(history_of(release(1)).text())
    damaged["switches"][0]["settings"]["ranker"]["cash_mib"] = 1
    with pytest.raises(ConfigError, match=r"annotation: switches\.0\.settings\.ranker\.cash_mib"):
        History.read(json.dumps(damaged), source="annotation")


def test_rankers_get_when_shard_fails_and_are_replaced_if_it_changes(release: Make, config: DeployConfig) -> None:
    degrading = DeployConfig(ranker=RankerResources(shards=ShardsConfig(when_shard_fails="degrade")))
    before, after = (ranker_object(history_of(release(12), settings)) for settings in (config, degrading))
    assert "--when-shard-fails=degrade" in predictor(after)["model"]["args"]
    assert settings_of(after) != settings_of(before)


def test_a_shards_service_resolves_to_its_pods(release: Make, config: DeployConfig) -> None:
    service, headless, _ = shard_objects(release(1), 1, config)
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["selector"] == {"app": f"isvc.{service['metadata']['name']}-predictor"}


def test_a_shards_service_is_owned_by_its_inference_service(release: Make, config: DeployConfig) -> None:
    service, headless, _ = shard_objects(release(1), 0, config)
    service["metadata"]["uid"] = "u"
    [owner] = with_owner(headless, service)["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("InferenceService", "students-v1-s0", "u")


def test_a_shard_has_the_replicas_of_its_plan_and_the_memory_of_its_tables(release: Make) -> None:
    config = DeployConfig(shard=ShardResources(overhead_mib=500))
    first, *_ = shard_objects(release(1), 0, config)
    assert (predictor(first)["minReplicas"], predictor(first)["maxReplicas"]) == (2, 2)
    resources = predictor(first)["model"]["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "503Mi"


def test_a_shard_has_as_many_servers_as_the_settings_ask_or_more_by_its_plan(release: Make) -> None:
    planned = release(1).model_copy(update={"replicas": (1, 3)})
    config = DeployConfig(shard=ShardResources(replicas=2))
    found = [predictor(shard_objects(planned, shard, config)[0])["minReplicas"] for shard in (0, 1)]
    assert found == [2, 3]


def budgets(release: Release) -> dict[str, Object]:
    objects = release_objects(history_of(release))
    return {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "PodDisruptionBudget"}


def selected(spec: Object, pods: Mapping[str, Mapping[str, str]]) -> list[str]:
    wanted = spec["selector"]["matchLabels"].items()
    return [name for name, labels in pods.items() if wanted <= labels.items()]


def test_every_pod_has_one_budget_and_shares_it_only_with_pods_that_stand_in_for_it(release: Make) -> None:
    other = release(1).model_copy(update={"vm": "teachers"})
    releases = [release(1), release(2), other]
    pods = {
        f"{one.name} {item['metadata']['name']}": predictor(item)["labels"]
        for one in releases
        for item in release_objects(history_of(one))
        if item["kind"] == "InferenceService"
    }
    assert len(pods) == 9
    found = {name: selected(spec, pods) for one in releases for name, spec in budgets(one).items()}
    assert found == {
        "students": ["students v1 students", "students v2 students"],  # while a rollout replaces them
        "teachers": ["teachers v1 teachers"],
        **{f"students-v{version}-s{shard}": [f"students v{version} students-v{version}-s{shard}"]
           for version in (1, 2) for shard in (0, 1)},
        **{f"teachers-v1-s{shard}": [f"teachers v1 teachers-v1-s{shard}"] for shard in (0, 1)},
    }  # fmt: skip


def test_a_budget_lets_one_pod_go_at_a_time_and_one_that_is_not_ready_at_any_time(release: Make) -> None:
    for spec in budgets(release(1)).values():
        assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
        assert "minAvailable" not in spec  # it would keep a single server on its node for ever


def test_servers_that_stand_in_for_each_other_prefer_other_nodes_and_zones_or_require_other_nodes(
    release: Make,
) -> None:
    conditions = {}
    for spread in ("prefer", "require"):
        history = history_of(release(1), DeployConfig.parse({"spread": spread}, source="deploy.yaml"))
        for item in release_objects(history):
            if item["kind"] == "InferenceService":
                zone, node = predictor(item)["topologySpreadConstraints"]
                assert (zone["topologyKey"], node["topologyKey"]) == (
                    "topology.kubernetes.io/zone",
                    "kubernetes.io/hostname",
                )
                labels = predictor(item)["labels"].items()
                assert all(one["labelSelector"]["matchLabels"].items() <= labels for one in (zone, node))
                conditions[spread] = (zone["whenUnsatisfiable"], node["whenUnsatisfiable"])
                assert node.get("nodeTaintsPolicy") == ("Honor" if spread == "require" else None)
    assert conditions == {
        "prefer": ("ScheduleAnyway", "ScheduleAnyway"),
        "require": ("ScheduleAnyway", "DoNotSchedule"),
    }


def test_autoscaling_is_kserves_own(release: Make) -> None:
    config = DeployConfig(ranker=RankerResources(replicas=2, max_replicas=5, cpu_target_percent=70))
    ranker = ranker_object(history_of(release(1), config))
    assert ranker["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "hpa"
    chosen = {key: predictor(ranker)[key] for key in ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget")}
    assert chosen == {"minReplicas": 2, "maxReplicas": 5, "scaleMetric": "cpu", "scaleTarget": 70}
    fixed, *_ = shard_objects(release(1), 0, config)
    assert fixed["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "none"


def test_a_server_copies_only_its_own_part_of_a_bundle(release: Make, config: DeployConfig) -> None:
    shard, *_ = shard_objects(release(1), 1, config)
    assert predictor(shard)["storageUris"] == [
        {"uri": "s3://bucket/bundle/students-1/manifest.json", "mountPath": "/mnt/models"},
        {"uri": "s3://bucket/bundle/students-1/shards/1/", "mountPath": "/mnt/models/shards/1"},
    ]
    assert predictor(shard)["storageContainerName"] == "exfm"


def test_the_digest_of_pods_covers_all_that_kserve_makes_them_from(release: Make, config: DeployConfig) -> None:
    def digest(changed: DeployConfig) -> str:
        return settings_of(ranker_object(history_of(release(1), changed)))

    assert digest(config) == digest(DeployConfig())
    # Annotations are copied to pods, and a ranker's history has all settings.
    changes = [DeployConfig(hot_s=1), DeployConfig(ranker=RankerResources(replicas=3))]
    assert len({digest(changed) for changed in [config, *changes]}) == 3
    shards = [shard_objects(release(1), 0, changed)[0] for changed in [config, *changes]]
    assert len({settings_of(shard) for shard in shards}) == 1


def test_a_bundle_without_a_golden_query_is_refused(release: Make) -> None:
    class Manifest:
        files = {"golden/request.json": None}

    with pytest.raises(
        BundleError, match=r"the bundle lacks golden/response\.json, which rankers need for their smoke test"
    ):
        make_release(cast(BundleManifest, Manifest()), uri="s3://bucket/b", digest="0" * 64, version=1)


def test_the_number_of_rankers_is_that_of_the_plan_or_the_settings(release: Make, config: DeployConfig) -> None:
    planned = release(1).model_copy(update={"rankers": 7, "ranker_bytes": 3 * 2**20})
    ranker = predictor(ranker_object(history_of(planned, config)))
    assert ranker["minReplicas"] == 7
    with_hot_rows = f"{config.ranker.overhead_mib + 3}Mi"  # with what finds them
    assert ranker["model"]["resources"]["requests"]["memory"] == with_hot_rows
    assert predictor(ranker_object(history_of(release(1), config)))["minReplicas"] == config.ranker.replicas


def test_a_ranker_has_memory_for_its_own_tables(release: Make) -> None:
    config = DeployConfig(ranker=RankerResources(overhead_mib=500, shards=ShardsConfig(local_tables_mib=40)))
    hot = release(1).model_copy(update={"ranker_bytes": 2**20 + 1, "uri": "pvc://models/students"})
    model = predictor(ranker_object(history_of(hot, config)))["model"]
    assert model["args"][-1] == "--local-tables-mib=40"
    assert model["resources"]["requests"]["memory"] == model["resources"]["limits"]["memory"] == "542Mi"
    shards = [shard_objects(hot, 0, settings)[0] for settings in (config, DeployConfig())]
    assert settings_of(shards[0]) == settings_of(shards[1])


def test_tables_for_rankers_of_a_bundle_that_is_copied_in_parts_are_refused(release: Make) -> None:
    config = DeployConfig(ranker=RankerResources(shards=ShardsConfig(local_tables_mib=40)))
    with pytest.raises(
        ConfigError,
        match=r"local_tables_mib is 40, but a ranker copies only its own part of s3://bucket/bundle/students-1",
    ):
        history_of(release(1), config)


def test_a_deployment_sets_shards_by_the_rankers_own_settings() -> None:
    deployed, served = (kind.model_fields["shards"] for kind in (RankerResources, RankerConfig))
    assert deployed.annotation is served.annotation is ShardsConfig


def test_a_claim_is_mounted_and_nothing_is_copied(release: Make, config: DeployConfig) -> None:
    mounted = release(1).model_copy(update={"uri": "pvc://models/students"})
    shard, *_ = shard_objects(mounted, 0, config)
    assert predictor(shard)["model"]["storageUri"] == "pvc://models/students"
    assert not {"storageUris", "storageContainerName"} & predictor(shard).keys()


def test_every_object_has_its_lineage(release: Make, config: DeployConfig) -> None:
    for item in release_objects(history_of(release(3), config)):
        labels = item["metadata"]["labels"]
        assert {"name", "component", "part-of", "managed-by"} == {
            key.removeprefix("app.kubernetes.io/") for key in labels if key.startswith("app.kubernetes.io/")
        }
        assert labels["exfm.dev/vm"] == "students"
        of_all_versions = (item["kind"], item["metadata"]["name"]) == ("PodDisruptionBudget", "students")
        assert labels.get("exfm.dev/version") == (None if of_all_versions else "3")
        if item["kind"] == "InferenceService":
            annotations = item["metadata"]["annotations"]
            assert annotations["exfm.dev/bundle-id"] == f"{3:064x}"
            assert annotations["exfm.dev/fm-snapshot"] == "w00009"
            assert annotations["exfm.dev/examples"] == "version 3"


def test_pods_fit_a_namespace_with_restricted_pod_security(release: Make, config: DeployConfig) -> None:
    for item in release_objects(history_of(release(1), config)):
        if item["kind"] == "InferenceService":
            context = predictor(item)["securityContext"]
            assert context["runAsNonRoot"] is True
            assert context["runAsUser"] > 0
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert predictor(item)["automountServiceAccountToken"] is False


def test_rendered_objects_are_yaml_in_the_order_of_the_rollout(release: Make, config: DeployConfig) -> None:
    text = to_yaml(release_objects(history_of(release(1), config)))
    names = re.findall(r"^kind: (\S+)\nmetadata:\n  name: (\S+)$", text, flags=re.MULTILINE)
    shards = [
        (kind, f"students-v1-s{shard}{suffix}")
        for shard in (0, 1)
        for kind, suffix in (("InferenceService", ""), ("Service", "-grpc"), ("PodDisruptionBudget", ""))
    ]
    assert names == [*shards, ("InferenceService", "students"), ("PodDisruptionBudget", "students")]


def test_a_switch_to_the_current_release_changes_no_history(release: Make) -> None:
    history = history_of(release(1))
    assert switched(history, release(1), DeployConfig(), at_s=99) is history


def test_new_settings_of_the_current_release_can_be_taken_back(release: Make) -> None:
    history = switched(history_of(release(1)), release(2), DeployConfig(), at_s=5)
    changed = switched(history, release(2), DeployConfig(hot_s=7), at_s=99)
    assert (changed.current.settings.hot_s, changed.current.at_s) == (7, 5)
    assert changed.before == history
    assert changed.previous == history.previous
    again = switched(changed, release(2), DeployConfig(hot_s=8), at_s=99)
    assert [switch.release.version for switch in again.switches] == [2, 2, 1]


def test_new_settings_of_a_version_drop_no_other_version(release: Make) -> None:
    history = switched(history_of(release(1)), release(2), DeployConfig(history=1), at_s=2)
    for hot_s in (7, 8):
        history = switched(history, release(2), DeployConfig(history=1, hot_s=hot_s), at_s=99)
        assert [switch.release.version for switch in history.switches] == [2, 2, 1]
        assert history.previous is not None
        assert history.previous.release.version == 1
    history = switched(history, release(3), DeployConfig(history=1), at_s=100)
    assert [switch.release.version for switch in history.switches] == [3, 2]


def test_a_history_forgets_the_oldest_beyond_its_limit(release: Make) -> None:
    config = DeployConfig(history=2)
    history = history_of(release(1))
    for version in range(2, 6):
        history = switched(history, release(version), config, at_s=version)
    assert [switch.release.version for switch in history.switches] == [5, 4, 3]
    assert History.read(history.text(), source="annotation") == history


def test_a_bundle_keeps_the_version_that_it_is_deployed_as(release: Make) -> None:
    deployed = [release(1), release(2)]
    assert choose_version(release(1).bundle_id, deployed) == 1
    assert choose_version("f" * 64, deployed) == 3
    assert choose_version("f" * 64, []) == 1


@pytest.mark.parametrize(
    ("bundle", "serve_from", "message"),
    [
        ("/home/me/bundle", "", "is a folder of this machine, which pods cannot read"),
        ("gs://bucket/bundle", "", "pods cannot read gs://bucket/bundle"),
        ("s3://bucket", "", "pods cannot read s3://bucket"),
        ("/home/me/bundle", "pvc://claim", "pods cannot read pvc://claim"),
    ],
)
def test_a_uri_that_pods_cannot_read_is_refused(bundle: str, serve_from: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        served_uri(bundle, serve_from=serve_from)


def test_pods_may_read_a_bundle_from_another_uri() -> None:
    assert served_uri("/home/me/bundle", serve_from="pvc://claim/bundle/") == "pvc://claim/bundle"
    assert served_uri("s3://bucket/bundle", serve_from="") == "s3://bucket/bundle"
