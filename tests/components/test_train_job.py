"""The TrainJob of a foundation model as data, the exit codes of its processes, and what a cluster needs for it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from exfm.deploy.cluster import ForbiddenError
from exfm.environment import IMAGE
from exfm.errors import ConfigError
from exfm.foundation.config import FoundationConfig
from exfm_components.preflight import check_run
from exfm_components.processes import RIGHTS, RUNTIME, missing_for_jobs, trains_apart, trains_by_job
from exfm_components.run_config import RunConfig
from exfm_components.train_job import job_name, train_job
from nightly_log import run_settings

COMPONENT = Path(__file__).parents[2] / "manifests/components/trainer"


def run_config(training: dict[str, Any], name: str = "fm", published: str = "", **platform: Any) -> RunConfig:
    models = [{"name": name, "training": training, "published": published}]
    settings = run_settings(
        "small", root="s3://bucket/small", log="s3://bucket", foundation_models=models, platform=platform
    )
    return RunConfig.parse(settings, source="test")


def made(run: RunConfig) -> Any:
    return train_job(run, run.foundation_models[0])


@pytest.fixture(autouse=True)
def _step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE, "registry.example/exfm-pipelines@sha256:1")


def test_a_job_has_the_models_processes_and_the_steps_image_and_resources() -> None:
    steps = {"train-fm": {"cpu_request_m": 4000, "cpu_limit_m": 8000, "memory_mib": 16384}}
    job = made(run_config({"nodes": 2, "processes_per_node": 3}, steps=steps))
    trainer = job["spec"]["trainer"]
    assert job["spec"]["runtimeRef"]["name"] == RUNTIME
    assert (trainer["image"], trainer["numNodes"], trainer["numProcPerNode"]) == (
        "registry.example/exfm-pipelines@sha256:1", 2, 3,
    )  # fmt: skip
    assert trainer["resourcesPerNode"] == {
        "requests": {"cpu": "4000m", "memory": "16384Mi"},
        "limits": {"cpu": "8000m", "memory": "16384Mi"},
    }
    assert not job["spec"].get("runtimePatches")


def test_a_job_tells_each_process_the_run_and_the_model() -> None:
    run = run_config({"nodes": 2})
    trainer = made(run)["spec"]["trainer"]
    assert trainer["command"] == ["python", "-m", "exfm_components.launcher", "-m", "exfm_components.rank"]
    [arguments] = map(yaml.safe_load, trainer["args"])
    assert arguments.keys() == {"run", "root", "foundation_model"}
    assert RunConfig.parse(arguments["run"], source="args") == run
    assert FoundationConfig.parse(arguments["foundation_model"], source="args") == run.foundation_models[0]
    assert arguments["root"] == "s3://bucket/small"


def test_a_job_on_gpus_asks_for_one_for_each_process() -> None:
    resources = made(run_config({"nodes": 2, "processes_per_node": 4, "gpu": True}))["spec"]["trainer"][
        "resourcesPerNode"
    ]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "4"


def test_a_job_has_addresses_and_keys_by_reference_as_a_step() -> None:
    environment = made(run_config({"nodes": 2}, config_map="mine", secret="keys"))["spec"]["trainer"]["env"]
    sources = {variable["name"]: variable.get("valueFrom") for variable in environment}
    assert sources["AWS_ENDPOINT_URL"] == {
        "configMapKeyRef": {"name": "mine", "key": "AWS_ENDPOINT_URL", "optional": True}
    }
    assert sources["AWS_SECRET_ACCESS_KEY"] == {
        "secretKeyRef": {"name": "keys", "key": "AWS_SECRET_ACCESS_KEY", "optional": True}
    }
    assert [variable["name"] for variable in environment if "value" in variable] == ["OMP_NUM_THREADS"]
    assert not any(name.startswith("MLFLOW") for name in sources)  # no process asks the registry


def test_a_jobs_root_is_where_its_pods_can_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a TrainJob's pods cannot read; name an s3:// URL"):
        made(run_config({"nodes": 2}).model_copy(update={"root": str(tmp_path)}))


def test_a_jobs_pods_go_where_steps_go() -> None:
    run = run_config(
        {"nodes": 2},
        node_selector={"pool": "training"},
        tolerations=[{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}, {"key": "gpu", "value": "yes"}],
        image_pull_secrets=["registry"],
    )
    [patch] = made(run)["spec"]["runtimePatches"]
    [node] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert node["name"] == "node"
    assert node["template"]["spec"]["template"]["spec"] == {
        "nodeSelector": {"pool": "training"},
        "tolerations": [
            {"key": "spot", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "gpu", "operator": "Equal", "value": "yes"},
        ],
        "imagePullSecrets": [{"name": "registry"}],
    }


def test_each_step_of_a_root_names_its_models_job_alike() -> None:
    model = run_config({"nodes": 2}, name="a" * 29 + "_").foundation_models[0]
    name = job_name(model, root="s3://b/r")
    assert job_name(model, root="s3://b/r") == name
    assert job_name(model, root="s3://b/other") != name
    assert len(f"{name}-node-0-999-abcde") <= 63


def test_a_step_whose_image_is_unknown_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(IMAGE)
    with pytest.raises(ConfigError, match="EXFM_IMAGE is not set"):
        made(run_config({"nodes": 2}))


@pytest.mark.parametrize(
    ("training", "published", "apart"),
    [
        ({}, "", False),
        ({"nodes": 2}, "", True),
        ({"processes_per_node": 2}, "", True),
        ({"gpu": True}, "", True),
        ({"nodes": 2}, "s3://bucket/other/models/fm", False),
    ],
)
def test_several_processes_or_a_gpu_are_a_job_in_a_pod_only(
    monkeypatch: pytest.MonkeyPatch, training: dict[str, Any], published: str, apart: bool
) -> None:
    [model] = run_config(training, published=published).foundation_models
    assert trains_by_job(model) == apart
    monkeypatch.delenv(IMAGE)
    assert (trains_apart(model), trains_by_job(model)) == (apart, False)


RULES = [
    rule
    for item in yaml.safe_load_all((COMPONENT / "rights.yaml").read_text())
    if item["kind"] in {"Role", "ClusterRole"}
    for rule in item["rules"]
]


class Account:
    """What an account finds in a cluster."""

    namespace = "kubeflow"

    def __init__(self, *, rules: list[Any], runtime: bool = True, readable: bool = True) -> None:
        self.rules, self.runtime, self.readable = rules, runtime, readable

    def get(self, kind: str, name: str) -> Any:
        if not self.readable:
            raise ForbiddenError("cannot get")
        return {"metadata": {"name": name}} if self.runtime else None

    def own_rules(self) -> tuple[list[Any], bool]:
        return self.rules, True


def missing(**what: Any) -> str:
    account: Any = Account(**{"rules": RULES, **what})
    return missing_for_jobs(account)


def test_the_component_has_the_rights_that_a_step_needs() -> None:
    assert missing() == ""
    given = {
        (group, what): tuple(rule["verbs"])
        for rule in RULES
        for group in rule["apiGroups"]
        for what in rule["resources"]
    }
    assert given.pop(("trainer.kubeflow.org", "clustertrainingruntimes")) == ("get",)
    assert given == RIGHTS  # and no more


def test_what_a_cluster_lacks_for_jobs_is_named_with_what_to_apply() -> None:
    assert missing(runtime=False).startswith("the cluster has no ClusterTrainingRuntime exfm-torchrec: apply")
    assert missing(readable=False).startswith("this account may not read ClusterTrainingRuntimes: apply")
    without = [rule for rule in RULES if rule["resources"] != ["trainjobs"]]
    assert missing(rules=without).startswith(
        "this account may not create on trainjobs.trainer.kubeflow.org, get on trainjobs.trainer.kubeflow.org, "
        "delete on trainjobs.trainer.kubeflow.org in namespace kubeflow: apply manifests/components/trainer"
    )


def test_the_first_step_looks_for_the_trainer_if_a_job_trains(tmp_path: Path) -> None:
    for training, wanted in (({"nodes": 2}, True), ({}, False)):
        run = run_config(training).model_copy(update={"root": str(tmp_path)})
        with pytest.raises(ConfigError) as error:  # there is no log either
            check_run(run)
        assert ("Kubeflow Trainer: this process is in no pod" in str(error.value)) is wanted


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [("sys.exit(2)", 2), ("os.kill(os.getpid(), 9)", 137), ("pass", 0)])
def test_processes_end_with_the_exit_code_of_the_first_that_fails(end: str, code: int) -> None:
    program = f"import os, sys, time\nif os.environ['RANK'] == '1': {end}\nelse: time.sleep({60 if code else 0})"
    command = [sys.executable, "-m", "exfm_components.launcher", "--standalone", "--nproc-per-node=2", "--no-python"]
    done = subprocess.run([*command, sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.splitlines()[-1] == f"rank 1 ended with exit code {code}, as the first on this node"
