"""What holds for every file under manifests/, as it is written: no cluster and no kustomize needed."""

import importlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY
from rendering import CHART, MANIFESTS, Object

import exfm.serving.exporter
from exfm.deploy import objects as deploy
from exfm.deploy.config import DeployConfig
from exfm.deploy.release import Release
from exfm.environment import COMPUTE_ENVIRONMENT
from exfm.errors import ExfmError, StageError
from exfm.serving.config import RankerConfig, ShardConfig
from exfm.serving.exporter import HEARTBEAT, Exporter
from exfm.serving.server.command_line import server_parser

WRITTEN = {
    f"{path.relative_to(MANIFESTS)}: {document['kind']} {document['metadata']['name']}": document
    for path in sorted(MANIFESTS.rglob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if isinstance(document, dict) and "metadata" in document
}
"""Every object that we write, by file, kind and name."""

RUNTIMES = {name: object_ for name, object_ in WRITTEN.items() if object_["kind"] == "ServingRuntime"}
STORAGE = next(object_ for object_ in WRITTEN.values() if object_["kind"] == "ClusterStorageContainer")
TRAINING = next(object_ for object_ in WRITTEN.values() if object_["kind"] == "ClusterTrainingRuntime")
[TRAINER_JOB] = TRAINING["spec"]["template"]["spec"]["replicatedJobs"]
WITH_EXPORTER = {
    operation["path"]: operation["value"]
    for operation in yaml.safe_load((MANIFESTS / "components/exporter/ranker.yaml").read_text())
}
"""What components/exporter adds to the ranker's runtime, by place."""
CONTAINERS = {
    **{name: runtime["spec"]["containers"][0] for name, runtime in RUNTIMES.items()},
    "storage initializer": STORAGE["spec"]["container"],
    "exporter": WITH_EXPORTER["/spec/containers/-"],
    "trainer": TRAINER_JOB["template"]["spec"]["template"]["spec"]["containers"][0],
}
SETTINGS = next(object_ for object_ in WRITTEN.values() if object_["metadata"]["name"] == "exfm-servers")["data"]


def test_there_is_something_to_look_at() -> None:
    assert len(WRITTEN) > 20
    assert len(RUNTIMES) == 2
    assert all(len(runtime["spec"]["containers"]) == 1 for runtime in RUNTIMES.values())


@pytest.mark.parametrize("name", WRITTEN)
def test_every_object_says_whose_it_is(name: str) -> None:
    labels = WRITTEN[name]["metadata"]["labels"]
    keys = [f"app.kubernetes.io/{key}" for key in ("name", "part-of", "managed-by")]
    assert [labels[key] for key in keys] == ["exfm"] * 3
    assert labels["app.kubernetes.io/component"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_is_restricted(name: str) -> None:
    assert CONTAINERS[name]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": deploy.USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_has_requests_and_limits(name: str) -> None:
    resources = CONTAINERS[name]["resources"]
    assert resources["requests"].keys() >= {"cpu", "memory"}
    assert resources["limits"].keys() >= {"cpu", "memory"}


def test_every_image_is_pinned_to_a_version_other_than_latest() -> None:
    paths = [path for folder in (MANIFESTS, CHART) for path in folder.rglob("*.yaml")]
    text = "\n".join(path.read_text() for path in paths)
    images = re.findall(r"^\s*image: ([^{\s]+)$", text, re.M)
    assert {container["image"] for container in CONTAINERS.values()} <= set(images)
    versions = [image.rpartition(":")[2] for image in images]
    versions += re.findall(r"^\s*(?:(?:tag|imageTag|newTag): |value: exfm-serving:)(\S+)$", text, re.M)
    assert len(versions) >= 8
    assert [version for version in versions if not re.fullmatch(r"v?\d+\.\d+\.\d+(-\w+)?", version)] == []


ROLES = {
    (object_["kind"], object_["metadata"]["name"]): object_["rules"]
    for object_ in WRITTEN.values()
    if object_["kind"] in {"Role", "ClusterRole"}
}


def allowed(kind: str, name: str) -> set[tuple[str, str]]:
    """Return resources and verbs."""
    return {(resource, verb) for rule in ROLES[kind, name] for resource in rule["resources"] for verb in rule["verbs"]}


def test_roles_name_what_they_allow() -> None:
    assert ROLES.keys() == {("Role", "exfm-deployer"), ("Role", "exfm-trainer"), ("ClusterRole", "exfm-trainer")}
    for role in ROLES:
        groups = {group for rule in ROLES[role] for group in rule["apiGroups"]}
        words = groups | {word for words in allowed(*role) for word in words}
        assert not [word for word in words if "*" in word]
        assert not {resource for resource, _ in allowed(*role)} & {
            "secrets", "configmaps", "pods/exec", "pods/portforward",
        }  # fmt: skip


def test_a_deployer_writes_what_it_deploys_and_nothing_else() -> None:
    writes = {resource for resource, verb in allowed("Role", "exfm-deployer") if verb not in {"get", "list", "watch"}}
    assert writes == {"inferenceservices", "services", "poddisruptionbudgets"}
    (account,) = (rule for rule in ROLES["Role", "exfm-deployer"] if "serviceaccounts" in rule["resources"])
    assert (account["resourceNames"], account["verbs"]) == ([deploy.SERVICE_ACCOUNT], ["get"])


def test_a_step_writes_trainjobs_and_nothing_else() -> None:
    writes = {pair for pair in allowed("Role", "exfm-trainer") if pair[1] not in {"get", "list", "watch"}}
    assert writes == {("trainjobs", "create"), ("trainjobs", "delete")}
    assert allowed("ClusterRole", "exfm-trainer") == {("clustertrainingruntimes", "get")}


def test_a_failed_process_restarts_all_pods_and_a_reported_error_ends_the_job() -> None:
    job = TRAINER_JOB["template"]["spec"]
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")
    [rule] = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert set(rule["onExitCodes"]["values"]) == {error.exit_code for error in (ExfmError, StageError)}
    policy = TRAINING["spec"]["template"]["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 3
    assert [(one["action"], one["onJobFailureReasons"]) for one in policy["rules"]] == [
        ("FailJobSet", ["PodFailurePolicy"])
    ]


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_has_all_three_probes_on_http(name: str) -> None:
    container = CONTAINERS[name]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http1": 8080, "h2c": 8081} | ({"stream": 8082} if "shard" in name else {})
    paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/v2/health/live", "readiness": "/v2/health/ready", "liveness": "/v2/health/live"}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 600


@pytest.mark.parametrize("name", RUNTIMES)
def test_servers_start_in_the_environment_for_tensors(name: str) -> None:
    environment = {variable["name"]: variable["value"] for variable in CONTAINERS[name]["env"]}
    assert environment == {**COMPUTE_ENVIRONMENT, "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize("name", RUNTIMES)
def test_servers_know_their_arguments(name: str) -> None:
    parser = server_parser("", "")
    component = RUNTIMES[name]["metadata"]["labels"]["app.kubernetes.io/component"]
    patch = yaml.safe_load((MANIFESTS / f"components/mtls/{component}.yaml").read_text())
    tls = [operation["value"] for operation in patch if operation["path"].endswith("/args/-")]
    known, unknown = parser.parse_known_args([*CONTAINERS[name]["args"], *tls])
    assert unknown == []
    assert str(known.bundle) == deploy.MOUNT
    assert SETTINGS.keys() >= {known.settings.name}
    assert CONTAINERS[name]["command"] == ["python", "-m", f"exfm.serving.{component}"]


def test_servers_know_their_settings_and_end_within_their_grace_period() -> None:
    for kind, key in ((RankerConfig, "ranker.yaml"), (ShardConfig, "shard.yaml")):
        config = kind.parse(yaml.safe_load(SETTINGS[key]), source=key)
        assert config.shutdown.lame_duck_s + config.shutdown.drain_s < deploy.GRACE_PERIOD_S


def test_every_client_of_a_ranker_connects_anew_while_it_still_answers() -> None:
    config = RankerConfig.parse(yaml.safe_load(SETTINGS["ranker.yaml"]), source="ranker.yaml")
    assert 2 * config.limits.max_connection_age_s <= config.shutdown.lame_duck_s


def test_what_a_ranker_logs_by_default_fits_its_pods_tmp() -> None:
    (spec,) = (runtime["spec"] for runtime in RUNTIMES.values() if runtime["metadata"]["name"] == deploy.RANKER_RUNTIME)
    (mount,) = (mount for mount in spec["containers"][0]["volumeMounts"] if mount["mountPath"] == "/tmp")
    (volume,) = (volume for volume in spec["volumes"] if volume["name"] == mount["name"])
    assert not mount.get("readOnly")
    assert RankerConfig().request_log.max_mib < int(volume["emptyDir"]["sizeLimit"].removesuffix("Mi"))


def test_a_ranker_and_its_exporter_share_the_folder_of_the_log_which_has_room_for_it() -> None:
    exporter, volume = CONTAINERS["exporter"], WITH_EXPORTER["/spec/volumes/-"]
    mount = WITH_EXPORTER["/spec/containers/0/volumeMounts/-"]
    assert exporter["volumeMounts"] == [mount] == [{"name": volume["name"], "mountPath": mount["mountPath"]}]
    assert WITH_EXPORTER["/spec/containers/0/args/-"] == f"--request-log-folder={mount['mountPath']}"
    assert exporter["args"][0] == f"--folder={mount['mountPath']}"
    assert RankerConfig().request_log.max_mib < int(volume["emptyDir"]["sizeLimit"].removesuffix("Mi"))


def test_an_exporter_finds_its_module_and_its_destination() -> None:
    exporter = CONTAINERS["exporter"]
    *python, module = exporter["command"]
    assert (python, module) == (["python", "-m"], exfm.serving.exporter.__name__)
    settings = WRITTEN["components/exporter/settings.yaml: ConfigMap exfm-exporter"]["data"]
    assert exporter["args"][1] == "--to=$(EXFM_EXPORT_TO)"
    assert settings["EXFM_EXPORT_TO"].startswith("s3://")


def test_an_exporter_is_alive_while_its_heartbeat_is_young(tmp_path: Path) -> None:
    exporter = CONTAINERS["exporter"]
    probe = exporter["livenessProbe"]
    folder, heartbeat = exporter["volumeMounts"][0]["mountPath"], tmp_path / HEARTBEAT
    command = [part.replace(f"{folder}/{HEARTBEAT}", str(heartbeat)) for part in probe["exec"]["command"]]

    def is_alive() -> bool:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    assert not is_alive()
    Exporter(tmp_path, str(tmp_path / "to")).export()
    assert is_alive()
    hour_ago_s = time.time() - 3_600
    os.utime(heartbeat, (hour_ago_s, hour_ago_s))
    assert not is_alive()


def test_deploy_and_manifests_mean_the_same_by_a_name() -> None:
    names = {(object_["kind"], object_["metadata"]["name"]) for object_ in WRITTEN.values()}
    assert {
        ("ServingRuntime", deploy.RANKER_RUNTIME),
        ("ServingRuntime", deploy.SHARD_RUNTIME),
        ("ServiceAccount", deploy.SERVICE_ACCOUNT),
        ("ClusterStorageContainer", deploy.STORAGE_CONTAINER),
    } <= names


def test_rankers_reach_shards_at_the_port_of_streams_alone() -> None:
    spec = {name: WRITTEN[f"base/network.yaml: NetworkPolicy exfm-{name}"]["spec"] for name in ("rankers", "shards")}
    for (rule,) in (spec["rankers"]["egress"], spec["shards"]["ingress"]):
        assert [port["port"] for port in rule["ports"]] == [deploy.PORTS["stream"]]


def test_policies_select_pods_of_our_runtimes_alone() -> None:
    ours = [runtime["spec"]["labels"] for runtime in RUNTIMES.values()]
    selectors = [
        object_["spec"].get("podSelector") or object_["spec"]["selector"]
        for object_ in WRITTEN.values()
        if object_["kind"] in {"NetworkPolicy", "PodMonitor"}
        and object_["metadata"]["name"] not in {"exfm-default-deny", "exfm-dns"}
    ]
    assert len(selectors) == 5
    for selector in selectors:
        assert any(_selects(selector, labels) for labels in ours)
        assert not _selects(selector, {**ours[0], "app.kubernetes.io/component": "test"})


def test_in_production_each_kind_of_server_has_two_on_different_nodes() -> None:
    file = MANIFESTS / "overlays/production/deploy.yaml"
    config = DeployConfig.parse(yaml.safe_load(file.read_text()), source=str(file))
    assert (config.ranker.replicas, config.shard.replicas, config.spread) == (2, 2, "require")


def test_kserve_takes_our_storage_container_for_what_deploy_asks() -> None:
    release = Release(
        vm="students", version=1, bundle_id="0" * 64, digest="0" * 64, uri="s3://bucket/bundle/students",
        shard_bytes=(1,), replicas=(1,),
    )  # fmt: skip
    predictor = deploy.shard_objects(release, 0, DeployConfig())[0]["spec"]["predictor"]
    assert predictor["storageContainerName"] == STORAGE["metadata"]["name"]
    (format_,) = STORAGE["spec"]["supportedUriFormats"]
    assert re.search(format_["regex"], predictor["storageUris"][0]["uri"])  # KServe looks at the first one only


@pytest.mark.parametrize(
    ("uri", "supported"),
    [
        ("s3://bucket/bundle/students/manifest.json", True),
        ("s3://bucket/a/b/manifest.json", True),
        ("s3://bucket/model", False),
        ("s3://bucket/manifest.json/model", False),
        ("gs://bucket/bundle/manifest.json", False),
    ],
)
def test_kserve_chooses_our_storage_container_for_bundles_alone(uri: str, supported: bool) -> None:
    (format_,) = STORAGE["spec"]["supportedUriFormats"]
    assert (re.search(format_["regex"], uri) is not None) == supported


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ranker", "shard"])
def test_a_runtimes_own_memory_is_what_deploy_gives_servers_beside_tables(kind: str) -> None:
    runtime = next(one for one in RUNTIMES.values() if one["metadata"]["name"] == f"exfm-{kind}")
    [container] = runtime["spec"]["containers"]
    expected = f"{getattr(DeployConfig(), kind).overhead_mib}Mi"
    assert {container["resources"][bound]["memory"] for bound in ("requests", "limits")} == {expected}


def test_alerts_speak_of_metrics_that_servers_have() -> None:
    rules = next(object_ for object_ in WRITTEN.values() if object_["kind"] == "PrometheusRule")
    expressions = [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    used = {name for expression in expressions for name in re.findall(r"([a-z_]+)\{", expression)}
    assert {"exfm_shard_refused_keys_total", "exfm_ranker_missing_answers_total"} <= used
    assert used - {"up"} <= set(_metric_names())  # `up` is Prometheus's own


def _selects(selector: Object, labels: Object) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(term["key"]) in term["values"] for term in selector.get("matchExpressions", [])
    )


def _metric_names() -> Iterator[str]:
    """Yield the names of both servers' metrics."""
    for module in ("server.process", "shard.model", "ranker.model"):
        importlib.import_module(f"exfm.serving.{module}")
    for family in REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        yield from (family.name + suffix for suffix in suffixes)
