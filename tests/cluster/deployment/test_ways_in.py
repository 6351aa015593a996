"""Who may deploy: the whole pipeline by its own account, as Kubeflow runs it, and nobody without rights."""

import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import s3fs
import safetensors.torch
import torch
import yaml
from object_store import BUCKET, HOST, KEY, SECRET, environment, files, running_store
from operators import CLIENTS, NAMESPACE, REPOSITORY, Operator, folder_as_volume, wait_for

from exfm.artifact.stores import reaching
from exfm.das.advance import teach
from exfm.das.stages import ingest, label
from exfm.deploy.cluster import Cluster
from exfm.environment import IMAGE as STEPS_IMAGE
from exfm.foundation.line import foundation_line
from exfm_components.data_augmentation import das_of
from exfm_components.job_following import JOBSET_LABEL, run_job
from exfm_components.run_config import RunConfig
from exfm_components.train_job import log_of, train_job
from nightly_log import day_of_log, file_name, run_settings

pytestmark = pytest.mark.cluster

KUBEFLOW, RUNNER = "kubeflow", "pipeline-runner"
ACCOUNT = f"system:serviceaccount:{KUBEFLOW}:{RUNNER}"
IMAGE, NAME = "localhost/exfm-pipelines:rig", "nightly"

# The security context that Kubeflow Pipelines gives each step.
POD = {"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}}
CONTAINER = {
    "imagePullPolicy": "IfNotPresent",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}

MANIFESTS = REPOSITORY / "manifests"
TRAINER = [MANIFESTS / "components/trainer" / name for name in ("runtime.yaml", "rights.yaml")]

EMPTY_FOLDER = """
import os, shutil
shutil.rmtree("/models/mlflow", ignore_errors=True)
os.mkdir("/models/mlflow")
os.chmod("/models/mlflow", 0o777)
"""

STEPS = (
    "check", "ingest", "label", "train-fm", "join", "train-vm", "bundle", "judge", "register", "smoke-test", "report",
    "deploy",
)  # fmt: skip


@pytest.fixture(scope="module")
def pipelines(operator: Operator) -> Iterator[Operator]:
    """The namespace and the account of Kubeflow Pipelines' steps, and what these train by; afterwards all is gone."""
    operator.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": KUBEFLOW, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        },
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": RUNNER, "namespace": KUBEFLOW}},
        *(one for file in TRAINER for one in yaml.safe_load_all(file.read_text(encoding="utf-8"))),
    )
    yield operator
    operator.kubectl("delete", "namespace", KUBEFLOW, "--timeout=60s")
    operator.kubectl("delete", *(f"--filename={file}" for file in TRAINER), "--ignore-not-found", "--timeout=60s")


Access = tuple[str, str, str]
"""A verb, a resource with its group, as kubectl writes it, or pods/exec, and a namespace."""


def allowed(operator: Operator, accesses: set[Access]) -> set[Access]:
    """Return those accesses that the account has."""
    asked = sorted(accesses)
    reviews = []
    for verb, what, namespace in asked:
        resource, _, group = what.partition(".")
        resource, _, subresource = resource.partition("/")
        attributes = {"verb": verb, "resource": resource, "group": group, "namespace": namespace}
        attributes |= {"subresource": subresource} if subresource else {}
        reviews.append({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        })  # fmt: skip
    listed = {"apiVersion": "v1", "kind": "List", "items": reviews}
    line = "--output=jsonpath={.status.allowed}{'\\n'}"
    answers = operator.kubectl("create", "--filename=-", line, f"--as={ACCOUNT}", text=json.dumps(listed)).split()
    return {access for access, answer in zip(asked, answers, strict=True) if answer == "true"}


def test_a_pipelines_step_may_manage_inference_services_here_and_nothing_elsewhere(pipelines: Operator) -> None:
    manage = ("get", "list", "create", "patch", "delete")
    services = ("inferenceservices.serving.kserve.io", "services", "poddisruptionbudgets.policy")
    granted = {(verb, what) for verb in manage for what in services}
    granted |= {(verb, what) for verb in ("get", "list") for what in ("pods", "events", "resourcequotas")}
    read = ("deployments.apps", "servingruntimes.serving.kserve.io")
    granted |= {(verb, what) for verb in ("get", "list") for what in read}
    kinds = {what for _, what in granted} | {
        "secrets", "configmaps", "serviceaccounts",
        "roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io", "persistentvolumeclaims",
    }  # fmt: skip
    verbs = (*manage, "update", "deletecollection")
    asked = {(verb, what, NAMESPACE) for verb in verbs for what in kinds} | {("create", "pods/exec", NAMESPACE)}
    asked |= {("get", what, CLIENTS) for what in kinds}
    assert allowed(pipelines, asked) == {(verb, what, NAMESPACE) for verb, what in granted}
    account = ("get", "serviceaccount", f"--namespace={NAMESPACE}", "exfm-server", "--output=name", f"--as={ACCOUNT}")
    assert pipelines.kubectl(*account).strip() == "serviceaccount/exfm-server"


def objects_of_steps() -> list[Any]:
    """Return what steps find in their namespace: addresses, keys, and the MLflow server that exfm's manifests have."""
    endpoints = {
        "MLFLOW_TRACKING_URI": f"http://mlflow.{KUBEFLOW}:5000",
        "AWS_ENDPOINT_URL": f"http://{HOST}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    metadata = {"name": "exfm", "namespace": KUBEFLOW}
    text = (MANIFESTS / "components/mlflow/server.yaml").read_text(encoding="utf-8")
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": endpoints},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "stringData": {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET},
        },
        folder_as_volume("mlflow", claim="mlflow", namespace=KUBEFLOW),
        *yaml.safe_load_all(text.replace("exfm-pipelines:0.1.0", IMAGE)),
    ]


@pytest.fixture(scope="module")
def store(pipelines: Operator) -> Iterator[str]:
    """The store and the MLflow server of the steps; yields the store's address on this machine."""
    pipelines.undeploy()  # for their memory
    with running_store(pipelines) as url:
        pipelines.in_client(EMPTY_FOLDER)
        pipelines.apply(*objects_of_steps())
        ready = ("--for=condition=Available", f"--namespace={KUBEFLOW}", "deployment/mlflow", "--timeout=150s")
        pipelines.kubectl("wait", *ready)
        yield url
        pipelines.exfm("undeploy", NAME, "-c", str(pipelines.settings), check=False)


def put_day(url: str, day: int, *, log: str = f"{BUCKET}/log") -> None:
    """Put a day of a log into the store; feedback first, as a run takes it first."""
    for part, rows in sorted(day_of_log(day).items()):
        with files(url).open(f"{log}/{part}/{file_name(day)}", "wb") as file:
            rows.write_parquet(file)


def on_two_nodes(name: str, **places: str) -> dict[str, Any]:
    """Return the settings of a run whose foundation model a TrainJob trains."""
    run = run_settings(name, **places)
    [foundation] = run["foundation_models"]
    foundation["training"] = foundation["training"] | {"nodes": 2}
    run["platform"] = {"steps": {"train-fm": {"cpu_request_m": 50, "cpu_limit_m": 2_000, "memory_mib": 1_536}}}
    return run


def run_pipeline(pipelines: Operator, name: str) -> str:
    """Run all steps in their order, in a Job of the pipeline's account; return its log, with all that steps print."""
    settings = yaml.safe_load(pipelines.settings.read_text(encoding="utf-8"))
    run = on_two_nodes(NAME, root=f"s3://{BUCKET}/root", log=f"s3://{BUCKET}/log") | {"deploy": True}
    run["deployment"] |= {"settings": settings}
    metadata = {"name": name, "namespace": KUBEFLOW}
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["sh", "-c", "exfm run -c /run/exfm/run.yaml; code=$?; cat pipeline.log; exit $code"],
        "env": [{"name": "EXFM_IMAGE", "value": IMAGE}],
        "envFrom": [{"configMapRef": {"name": "exfm"}}, {"secretRef": {"name": "exfm"}}],
        "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
        "volumeMounts": [{"name": "run", "mountPath": "/run/exfm"}],
    }
    pod = POD | {
        "serviceAccountName": RUNNER,
        "restartPolicy": "Never",
        "containers": [container | CONTAINER],
        "volumes": [{"name": "run", "configMap": {"name": name}}],
    }
    pipelines.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"run.yaml": yaml.safe_dump(run)}},
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {"backoffLimit": 0, "template": {"spec": pod}},
        },
    )

    def conditions() -> list[str]:
        kinds = "--output=jsonpath={.status.conditions[*].type}"
        return pipelines.kubectl("get", "job", f"--namespace={KUBEFLOW}", name, kinds).split()

    wait_for(lambda: bool({"Complete", "Failed"} & {*conditions()}), seconds=900, what=f"the end of job {name}")
    log = pipelines.kubectl("logs", f"--namespace={KUBEFLOW}", f"job/{name}")
    assert "Complete" in conditions(), log
    return log


def test_the_whole_pipeline_runs_by_its_account_each_night_and_what_serves_can_restart(
    pipelines: Operator, store: str
) -> None:
    for day in range(4):
        put_day(store, day)
    log = run_pipeline(pipelines, "first-night")
    done = re.findall(r"^✓ ([a-z-]+)", log, flags=re.MULTILINE)
    assert sorted(done) == sorted(STEPS)
    assert (done[:8], done[-1]) == ([*STEPS[:8]], STEPS[-1])  # the others need nothing of each other
    assert f"{NAME} v1 serves" in log
    assert "3 windows now; 900 impressions labelled" in log
    assert "begins: 2 nodes of 1 processes" in log
    assert "train-fm fm: 2026-01-03T00:00:00Z" in log  # by the leader of the TrainJob
    assert "not checked: nodes (no right to list nodes and all pods)" in log
    assert pipelines.serving() == 1

    [shard] = [pod for pod in pipelines.names("pods") if pod.startswith(f"{NAME}-v1-s0")]
    put_day(store, 4)
    log = run_pipeline(pipelines, "second-night")
    assert "1 windows now; 1,200 impressions labelled" in log
    assert f"{NAME} v2 serves" in log
    assert pipelines.serving() == 2

    pipelines.exfm("rollback", NAME, "-c", str(pipelines.settings))
    assert pipelines.serving() == 1
    pipelines.kubectl("delete", "pod", f"--namespace={NAMESPACE}", shard)

    def serves_again() -> bool:
        return any(row["state"] == "serving" for row in pipelines.status())

    wait_for(serves_again, seconds=90, what="the first version's shard, after the second run wrote its bundle")
    assert pipelines.serving() == 1


NUM_DAYS = 28
KILL_RANK = r"""
for process in /proc/[0-9]*; do
  if tr '\0' ' ' <$process/cmdline | grep -q '^[^ ]*python[^ ]* -u -m exfm_components.rank'; then
    kill -9 ${process#/proc/}
  fi
done
"""
CLOSE = 2e-6
"""Sums in another order."""


def labelled(root: str, log: str) -> RunConfig:
    """Return a run on two nodes, whose log is ingested and labelled."""
    run = RunConfig.parse(on_two_nodes("news", root=root, log=log), source="the test's run")
    for _ in (*ingest(das_of(run), run.source), *label(das_of(run))):
        pass
    return run


def states_of(run: RunConfig) -> dict[str, dict[str, Any]]:
    """Return the tensors of all states of the foundation model, by file."""
    with reaching(run.root) as (store, root):
        found = sorted(store.glob(f"{root}/models/fm/*/*/*.safetensors"))
        return {file.removeprefix(root): safetensors.torch.load(store.cat_file(file)) for file in found}


@pytest.fixture
def reached(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The store and the image of steps, by this process's environment."""
    for name, value in (environment(store) | {STEPS_IMAGE: IMAGE}).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # a client keeps the address of its store
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def steps(pipelines: Operator, tmp_path: Path) -> Cluster:
    """The namespace of steps, with their rights."""
    own = pipelines.kubeconfig_of(RUNNER, namespace=KUBEFLOW, folder=tmp_path)
    return Cluster(kubernetes.config.new_client_from_config(str(own)), namespace=KUBEFLOW)


def test_training_that_loses_a_rank_and_is_suspended_leaves_the_states_of_an_undisturbed_one(
    pipelines: Operator, steps: Cluster, store: str, reached: None, tmp_path: Path
) -> None:
    for day in range(NUM_DAYS):
        put_day(store, day, log=f"{BUCKET}/disturbed/log")
    log = f"s3://{BUCKET}/disturbed/log"
    undisturbed, run = labelled(f"{tmp_path}/root", log), labelled(f"s3://{BUCKET}/disturbed/root", log)
    [foundation] = run.foundation_models
    for _ in teach(das_of(undisturbed), foundation.name, foundation_line(foundation, run.feature_schema)):
        pass

    job, told, printed = train_job(run, foundation), list[str](), io.StringIO()
    name = job["metadata"]["name"]

    def num_learned() -> int:
        return printed.getvalue().count("| train-fm fm: ")

    def wait_for_windows(num: int) -> None:
        wait_for(lambda: num_learned() >= num, seconds=120, what=f"{num} windows learned")

    def wait_for_report(text: str) -> None:
        wait_for(lambda: any(text in line for line in told), seconds=120, what=f"the report {text!r}")

    def pods() -> list[str]:
        return pipelines.names("pods", namespace=KUBEFLOW, labels=f"{JOBSET_LABEL}={name}")

    def suspend(suspended: bool) -> None:
        patch = json.dumps({"spec": {"suspend": suspended}})
        pipelines.kubectl("patch", "trainjob", f"--namespace={KUBEFLOW}", name, "--type=merge", f"--patch={patch}")

    with ThreadPoolExecutor(1) as pool, redirect_stdout(printed):
        step = pool.submit(run_job, steps, job, log=log_of(steps, name), report=told.append)
        try:
            wait_for_windows(2)
            [other] = [pod for pod in pods() if "-node-0-1-" in pod]
            pipelines.kubectl("exec", f"--namespace={KUBEFLOW}", other, "--", "sh", "-c", KILL_RANK)
            wait_for_report("rank 0 starts again")
            assert num_learned() < NUM_DAYS - 4, "killed too late"
            wait_for_windows(num_learned() + 2)
            suspend(True)
            wait_for_report("is suspended; it goes on when")
            wait_for(lambda: not pods(), seconds=60, what="the end of a suspended job's pods")
            assert num_learned() < NUM_DAYS - 1, "suspended too late"
            suspend(False)
            step.result(timeout=180)
        finally:
            steps.delete("TrainJob", name, owned_first=False)  # lets the step end, whatever failed
    found, expected = states_of(run), states_of(undisturbed)
    assert found.keys() == expected.keys()
    for file, tensors in expected.items():
        assert found[file].keys() == tensors.keys()
        for tensor_name, tensor in tensors.items():
            torch.testing.assert_close(found[file][tensor_name], tensor, rtol=CLOSE, atol=CLOSE)
    assert num_learned() <= len(expected) / 3, "a finished window was learned again"
    assert sum(line.startswith("rank 0 starts again") for line in told) >= 2, told
    wait_for(lambda: not pods(), seconds=60, what="the end of the job's pods")


def test_an_account_without_rights_is_told_which_role_it_needs(either: Operator, tmp_path: Path) -> None:
    version = either.serving()
    powerless = either.kubeconfig_of("default", namespace=CLIENTS, folder=tmp_path)
    process = either.exfm(*either.deploy_arguments(2), check=False, kubeconfig=powerless)
    assert process.returncode == 3
    assert re.search(r"^exfm: GET InferenceService is refused: .* is forbidden.*Role exfm-deployer$", process.stderr)
    assert either.serving() == version


def test_no_cluster_at_all_is_told_too(either: Operator, tmp_path: Path) -> None:
    process = either.exfm(*either.deploy_arguments(2), check=False, kubeconfig=tmp_path / "none")
    assert process.returncode == 3
    assert process.stderr.startswith("exfm: no cluster is configured: ")
