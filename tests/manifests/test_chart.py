"""The chart and the manifests, rendered by helm and kubectl. Marked `cluster`: they run where these two are."""

import base64
import shutil
from pathlib import Path

import pytest
import yaml
from rendering import CHART, MANIFESTS, Object, Objects, chart_notes, chart_tests, kustomized, overlay, templated

pytestmark = pytest.mark.cluster

STANDALONE = MANIFESTS / "overlays/standalone"


def without_helms_own(objects: Objects) -> Objects:
    """Return objects with the one label that Helm claims at installation, whatever the chart says, as ours."""
    for object_ in objects.values():
        assert object_["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        object_["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "exfm"
    return objects


def assert_same(chart: Objects, manifests: Objects) -> None:
    chart = without_helms_own(chart)
    assert chart.keys() == manifests.keys()
    for key, object_ in chart.items():
        assert object_ == manifests[key], f"the chart's {' '.join(key)} is not the manifests'"


def decoded(secret: Object) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def test_chart_and_manifests_are_the_same_objects() -> None:
    assert_same(templated(), kustomized(STANDALONE))


def test_rankers_on_gpus_in_the_chart_are_the_gpu_overlay() -> None:
    assert_same(templated("gpu.servers=ranker"), kustomized(MANIFESTS / "overlays/gpu"))


def test_pipelines_in_the_chart_are_the_kubeflow_overlay_but_for_secrets() -> None:
    kubeflow = kustomized(MANIFESTS / "overlays/kubeflow")
    peer = r"s3.peers[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name=kubeflow"
    chart = templated("pipelines.enabled=true", "s3.port=9000", peer)
    assert_same(chart, {key: object_ for key, object_ in kubeflow.items() if key[0] != "Secret"})


def test_two_files_say_where_stores_are_and_with_which_keys(tmp_path: Path) -> None:
    mine = MANIFESTS / "overlays/kubeflow"
    edited = tmp_path / "overlays/mine"
    shutil.copytree(MANIFESTS, tmp_path, dirs_exist_ok=True)
    shutil.copytree(mine, edited)
    endpoints = {
        "MLFLOW_TRACKING_URI": "https://mlflow",
        "AWS_ENDPOINT_URL": "https://s3:9",
        "AWS_DEFAULT_REGION": "eu",
    }
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a=b"}
    for name, values in (("endpoints", endpoints), ("credentials", keys)):
        (edited / f"{name}.env").write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    (edited / "mlflow.env").write_text("MLFLOW_TRACKING_TOKEN=token\n")
    objects = kustomized(edited)
    assert objects["ConfigMap", "kubeflow", "exfm"]["data"] == endpoints
    assert decoded(objects["Secret", "kubeflow", "exfm"]) == {**keys, "MLFLOW_TRACKING_TOKEN": "token"}
    servers = objects["Secret", "exfm", "exfm-s3"]
    assert decoded(servers) == keys
    assert servers["metadata"]["annotations"] == {
        "serving.kserve.io/s3-endpoint": "https://s3:9",
        "serving.kserve.io/s3-region": "eu",
    }
    assert objects["ServiceAccount", "exfm", "exfm-server"]["secrets"] == [{"name": "exfm-s3"}]


def test_what_is_not_filled_in_is_left_out_of_the_environment() -> None:
    objects = kustomized(MANIFESTS / "overlays/kubeflow")
    assert decoded(objects["Secret", "kubeflow", "exfm"]).keys() == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    chart = templated("pipelines.enabled=true", "pipelines.endpoints.AWS_ENDPOINT_URL=")
    assert chart["ConfigMap", "kubeflow", "exfm"]["data"].keys() == {"MLFLOW_TRACKING_URI", "AWS_DEFAULT_REGION"}


def test_the_charts_notes_say_which_secrets_to_make() -> None:
    make, endpoint = "--namespace {} create secret generic {} ", "serving.kserve.io/s3-endpoint="
    notes = chart_notes("pipelines.enabled=true", "pipelines.endpoints.AWS_ENDPOINT_URL=https://s3")
    assert make.format("exfm", "exfm-s3") in notes
    assert make.format("kubeflow", "exfm") in notes
    assert f"{endpoint}https://s3 " in notes
    others = chart_notes()
    assert make.format("exfm", "exfm-s3") in others
    assert "kubeflow" not in others
    assert f"{endpoint}https://HOST:PORT " in others


def test_every_object_of_the_kubeflow_overlay_says_whose_it_is() -> None:
    for object_ in kustomized(MANIFESTS / "overlays/kubeflow").values():
        labels = object_["metadata"]["labels"]
        assert [labels[f"app.kubernetes.io/{key}"] for key in ("name", "part-of", "managed-by")] == ["exfm"] * 3
        assert labels["app.kubernetes.io/component"]


def test_steps_of_a_profile_deploy_by_its_account(tmp_path: Path) -> None:
    written = (MANIFESTS / "components/pipelines/deployer.yaml").read_text()
    shown = [line.removeprefix("# ") for line in written.splitlines() if line.startswith("#  ")]
    patches = yaml.safe_load("\n".join(shown))
    profile = overlay(tmp_path / "o", resources=STANDALONE, components=["pipelines"], patches=patches)
    chart = templated(
        "pipelines.enabled=true", "pipelines.namespace=my-profile", "pipelines.serviceAccount=default-editor"
    )
    expected = [{"kind": "ServiceAccount", "name": "default-editor", "namespace": "my-profile"}]
    for objects in (kustomized(profile), chart):
        assert objects["RoleBinding", "exfm", "exfm-deployer"]["subjects"] == expected
    assert ("ConfigMap", "my-profile", "exfm") in chart


def test_nobody_is_bound_to_the_deployers_role_unless_asked() -> None:
    assert not [key for key in kustomized(STANDALONE) if key[0] == "RoleBinding"]


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("deployer.serviceAccount.name=mine", "pipelines.serviceAccount"),
        ("gpu.enabled=true", "gpu.servers=ranker, or all"),
        ("gpu.enabled=false", "gpu.servers=ranker, or all"),
    ],
)
def test_values_that_are_gone_are_refused_with_what_to_do(value: str, remedy: str) -> None:
    with pytest.raises(AssertionError, match=f"is no longer a value: .*{remedy}"):
        templated(value)


def test_settings_that_are_gone_are_refused_with_their_new_names() -> None:
    with pytest.raises(AssertionError, match=r"ranker\.settings\.max_ids is no longer a setting: set limits\.max_ids"):
        templated("ranker.settings.max_ids=500")
    with pytest.raises(AssertionError, match=r"shard\.settings\.lame_duck_s .*: set shutdown\.lame_duck_s"):
        templated("shard.settings.lame_duck_s=17")


def test_each_kind_of_server_keeps_its_own_image_where_it_is_renamed(tmp_path: Path) -> None:
    images = [{"name": "exfm-serving", "newName": "registry.example/exfm-serving"}]
    objects = kustomized(overlay(tmp_path / "o", resources=STANDALONE, components=["gpu"], images=images))
    chart = templated("gpu.servers=ranker", "image.repository=registry.example/exfm-serving")
    for kind, tag in (("ranker", "0.1.0-cuda"), ("shard", "0.1.0")):
        for rendered in (objects, chart):
            container = rendered["ServingRuntime", "exfm", f"exfm-{kind}"]["spec"]["containers"][0]
            assert container["image"] == f"registry.example/exfm-serving:{tag}"


def test_a_device_that_the_charts_settings_name_stays() -> None:
    objects = templated("gpu.servers=all", "ranker.settings.device=cpu")
    settings = objects["ConfigMap", "exfm", "exfm-servers"]["data"]
    assert "device: cpu" in settings["ranker.yaml"]
    assert "device: cuda" in settings["shard.yaml"]


@pytest.mark.parametrize(
    ("values", "components"),
    [
        (["mtls.enabled=true", "mtls.certManager=false"], ["mtls"]),
        (["mtls.enabled=true"], ["mtls", "certificates"]),
        (["monitoring.enabled=true"], ["monitoring"]),
        (["exporter.enabled=true"], ["exporter"]),
        (["trainer.enabled=true"], ["trainer"]),
        (["gpu.servers=all"], ["gpu", "gpu-shards"]),
        (["gpu.servers=ranker", "mtls.enabled=true", "monitoring.enabled=true", "exporter.enabled=true"],
         ["gpu", "mtls", "certificates", "monitoring", "exporter"]),
    ],
)  # fmt: skip
def test_each_of_the_charts_switches_is_a_component(tmp_path: Path, values: list[str], components: list[str]) -> None:
    assert_same(templated(*values), kustomized(overlay(tmp_path / "o", resources=STANDALONE, components=components)))


def test_the_charts_values_for_production_are_the_production_overlay() -> None:
    assert_same(templated(files=[CHART / "values-production.yaml"]), kustomized(MANIFESTS / "overlays/production"))


def test_production_has_mtls_and_an_exporter() -> None:
    objects = kustomized(MANIFESTS / "overlays/production")
    for kind in ("ranker", "shard"):
        [server, *others] = objects["ServingRuntime", "exfm", f"exfm-{kind}"]["spec"]["containers"]
        assert "--tls=/etc/exfm-tls" in server["args"]
        assert [one["name"] for one in others] == (["exporter"] if kind == "ranker" else [])
        assert ("Certificate", "exfm", f"exfm-{kind}") in objects


PLACED = {
    "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
    "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}],
    "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    "nodeSelector": {"pool": "serving"},
    "tolerations": [{"key": "serving", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}]}]}}},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["ranker", "shard"])
def test_a_server_has_what_the_chart_adds_beside_its_own_and_its_others_have_not(kind: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({kind: PLACED}))
    before, after = (
        templated("exporter.enabled=true", "mtls.enabled=true", "gpu.servers=all", files=files)
        for files in ([], [values])
    )
    specs = [objects["ServingRuntime", "exfm", f"exfm-{kind}"]["spec"] for objects in (before, after)]
    old, new = (spec["containers"][0] for spec in specs)
    assert new["env"] == [*old["env"], *PLACED["env"]]
    assert new["volumeMounts"] == [*old["volumeMounts"], *PLACED["volumeMounts"]]
    assert specs[1]["volumes"] == [*specs[0]["volumes"], *PLACED["volumes"]]
    assert specs[1]["nodeSelector"] == {**specs[0]["nodeSelector"], **PLACED["nodeSelector"]}
    assert specs[1]["tolerations"] == [*PLACED["tolerations"], *specs[0]["tolerations"]]
    assert specs[1]["affinity"] == PLACED["affinity"]
    assert specs[1]["containers"][1:] == specs[0]["containers"][1:]
    changed = {key for key, object_ in after.items() if object_ != before[key]}
    assert changed == {("ServingRuntime", "exfm", f"exfm-{kind}")}


def test_names_that_exfm_uses_itself_are_refused() -> None:
    runtime = templated("exporter.enabled=true", "mtls.enabled=true")["ServingRuntime", "exfm", "exfm-ranker"]["spec"]
    own = {"env": [one["name"] for one in runtime["containers"][0]["env"]],
           "volumes": [one["name"] for one in runtime["volumes"]]}  # fmt: skip
    assert (len(own["env"]), len(own["volumes"])) == (7, 4)
    for field, names in own.items():
        for name in names:
            with pytest.raises(AssertionError, match=rf"ranker\.{field} has the name {name}, which exfm uses itself"):
                templated(f"ranker.{field}[0].name={name}")


def test_the_charts_own_test_goes_to_the_shards_nodes() -> None:
    pod = next(o for (kind, _, _), o in chart_tests("shard.nodeSelector.pool=serving").items() if kind == "Pod")
    assert pod["spec"]["nodeSelector"] == {"pool": "serving"}


def test_exporters_have_the_endpoint_and_the_keys_and_rankers_have_not() -> None:
    values = ["exporter.enabled=true", "exporter.to=s3://mine/logs", "exporter.endpoints.AWS_ENDPOINT_URL=https://s3:9"]
    objects = templated(*values)
    ranker, exporter = objects["ServingRuntime", "exfm", "exfm-ranker"]["spec"]["containers"]
    assert [{*source} - {"optional"} for source in exporter["envFrom"]] == [{"configMapRef"}, {"secretRef"}]
    assert "envFrom" not in ranker
    assert objects["ConfigMap", "exfm", "exfm-exporter"]["data"] == {
        "EXFM_EXPORT_TO": "s3://mine/logs",
        "AWS_ENDPOINT_URL": "https://s3:9",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    [by_role] = templated(*values, "s3.secretName=")["ServingRuntime", "exfm", "exfm-ranker"]["spec"]["containers"][1][
        "envFrom"
    ]
    assert by_role["configMapRef"]["name"] == "exfm-exporter"


def test_exporters_without_the_policy_for_the_store_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"exporter\.enabled needs s3\.enabled=true"):
        templated("exporter.enabled=true", "s3.enabled=false")


def test_the_chart_without_s3_is_the_base() -> None:
    assert_same(templated("s3.enabled=false"), kustomized(MANIFESTS / "base"))


def test_dev_asks_for_little_and_is_otherwise_the_base() -> None:
    base, dev = kustomized(MANIFESTS / "base"), kustomized(MANIFESTS / "overlays/dev")
    for key, object_ in dev.items():
        if key[0] == "ServingRuntime":
            container = object_["spec"]["containers"][0]
            assert container["resources"]["requests"] == {"cpu": "50m", "memory": "600Mi"}
            container["resources"] = base[key]["spec"]["containers"][0]["resources"]
    assert dev == base


def test_an_overlay_changes_every_image(tmp_path: Path) -> None:
    images = [
        {"name": "exfm-serving", "newName": "registry.example/exfm-serving", "newTag": "9.9.9"},
        {"name": "kserve/storage-initializer", "newName": "registry.example/initializer", "newTag": "v9"},
    ]
    mine = overlay(tmp_path / "o", resources=STANDALONE, components=[], images=images, configurations=["images.yaml"])
    shutil.copy(STANDALONE / "images.yaml", mine)
    objects = kustomized(mine)
    found = [o["spec"]["containers"][0]["image"] for (kind, _, _), o in objects.items() if kind == "ServingRuntime"]
    assert found == ["registry.example/exfm-serving:9.9.9"] * 2
    container = objects["ClusterStorageContainer", "", "exfm"]["spec"]["container"]
    assert container["image"] == "registry.example/initializer:v9"


def test_the_chart_fits_another_namespace() -> None:
    objects = templated("namespace.name=ranking", "mtls.enabled=true", "monitoring.enabled=true")
    assert {namespace for _, namespace, _ in objects} == {"", "ranking"}
    certificate = objects["Certificate", "ranking", "exfm-shard"]
    assert certificate["spec"]["dnsNames"] == ["*.ranking.svc", "*.ranking.svc.cluster.local"]
    assert ("Namespace", "", "ranking") in objects
    assert ("Namespace", "", "ranking") not in templated("namespace.name=ranking", "namespace.create=false")


def test_threads_spin_as_long_as_the_chart_is_told() -> None:
    objects = templated("ranker.spinCount=0", "shard.spinCount=5")
    found = {
        kind: [env["value"] for env in container["env"] if env["name"] == "GOMP_SPINCOUNT"]
        for kind in ("ranker", "shard")
        for container in objects["ServingRuntime", "exfm", f"exfm-{kind}"]["spec"]["containers"]
    }
    assert found == {"ranker": ["0"], "shard": ["5"]}


def test_a_release_is_not_installed_into_the_namespace_that_it_makes() -> None:
    with pytest.raises(AssertionError, match="install it into another namespace"):
        templated("namespace.name=default")
    templated("namespace.name=default", "namespace.create=false")


def test_helms_test_pod_is_restricted_and_may_only_list_runtimes() -> None:
    objects = chart_tests()
    pod = objects["Pod", "exfm", "exfm-test"]["spec"]
    context = pod["containers"][0]["securityContext"]
    runtime = templated()["ServingRuntime", "exfm", "exfm-shard"]["spec"]["containers"][0]
    assert context == runtime["securityContext"]
    assert pod["containers"][0]["image"] == runtime["image"]
    assert objects["Role", "exfm", "exfm-test"]["rules"] == [
        {"apiGroups": ["serving.kserve.io"], "resources": ["servingruntimes"], "verbs": ["list"]}
    ]
    assert all("helm.sh/hook" in o["metadata"]["annotations"] for o in objects.values())


@pytest.mark.parametrize(
    "value",
    [
        "image.tag=latest",
        "unknown=1",
        "ranker.resources.limits.cpu=two",
        "ranker.spinCount=-1",
        "s3.port=0",
        "gpu.servers=maybe",
        "exporter.to=/mnt/requests",
        "pipelines.endpoints.AWS_ENDPOINT_URL=host:9000",
    ],
)
def test_the_schema_refuses(value: str) -> None:
    with pytest.raises(AssertionError, match="values don't meet the specifications of the schema"):
        templated(value)


def test_rankers_are_never_open_to_all_namespaces() -> None:
    # An empty selector lets every namespace in; Helm takes out a key that is null.
    with pytest.raises(AssertionError, match="frontDoor"):
        templated(r"network.frontDoor.exfm\.dev/front-door=null")
