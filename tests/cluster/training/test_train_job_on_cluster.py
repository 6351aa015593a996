"""A foundation model's TrainJob on a real Kubeflow Trainer, made by an account with a step's rights alone.

A program of some lines stands in for the trainer: it runs by torchrun, as the trainer does, and adds up a number over
the processes, as the trainer's gradients. deployment/test_ways_in.py has the trainer itself.
"""

import contextlib
import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import kubernetes
import pytest
import yaml
from accounts import kubeconfig_of

from exfm.deploy.cluster import Cluster
from exfm.environment import IMAGE
from exfm.errors import ClusterError, StageError, StoppedError
from exfm_components import job_following
from exfm_components.job_following import JOBSET_LABEL, run_job
from exfm_components.processes import missing_for_jobs
from exfm_components.run_config import RunConfig
from exfm_components.train_job import log_of, train_job
from nightly_log import run_settings

pytestmark = pytest.mark.cluster

Kubectl = Callable[..., str]

REPOSITORY = Path(__file__).parents[3]
COMPONENT = REPOSITORY / "manifests/components/trainer"
NAMESPACE = "exfm-training"
NUM_STEPS = 16
PROGRAM = """
import sys, time, torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank, what, num_steps = dist.get_rank(), sys.argv[1], int(sys.argv[2])
for step in range(num_steps):
    total = torch.ones(1)
    try:
        dist.all_reduce(total)
    except RuntimeError:
        time.sleep(5)  # as the trainer's ranks do, so that the cluster sees first the rank that says why
        sys.exit(1)
    if rank == 0:
        print(f"exfm | under way | train-fm fm | {step + 1} of {num_steps} windows", flush=True)
        if what == "fail" and step == 2:
            print("exfm | failed 2 | train-fm fm | table labels has no column click", flush=True)
            dist.destroy_process_group()
            sys.exit(2)
    time.sleep(0.5)
if rank == 0:
    print(f"sum {int(total)}", flush=True)
"""
PLATFORM = {
    "steps": {"train-fm": {"cpu_request_m": 50, "cpu_limit_m": 1000, "memory_mib": 1024}},
    "node_selector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "training", "operator": "Exists"}],
}


def run_config(**platform: object) -> RunConfig:
    models = [{"name": "fm", "training": {"nodes": 2}}]
    settings = run_settings(
        "small", root="s3://bucket/small", log="s3://bucket", foundation_models=models, platform=PLATFORM | platform
    )
    return RunConfig.parse(settings, source="test")


@dataclass
class Step:
    """What a step of a pipeline prints, and what is done when it prints a text."""

    lines: list[str] = field(default_factory=list)
    actions: dict[str, Callable[[], object]] = field(default_factory=dict)

    def report(self, text: str) -> None:
        self.write(f"{text}\n")

    def write(self, text: str) -> None:
        self.lines += text.splitlines()
        for key in [key for key in self.actions if key in text]:
            self.actions.pop(key)()

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Output(io.TextIOBase):
    def __init__(self, step: Step) -> None:
        self.step = step

    def write(self, text: str) -> int:
        self.step.write(text)
        return len(text)


@dataclass
class Training:
    """An account that may train in a namespace, and nothing else."""

    cluster: Cluster
    kubectl: Kubectl

    def job(self, what: str = "", *, number: str, run: RunConfig | None = None) -> dict[str, object]:
        """Return a TrainJob that runs the program instead of the trainer; jobs of one number have one name."""
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(IMAGE, os.environ.get("EXFM_PIPELINES_IMAGE", "localhost/exfm-pipelines:rig"))
            run = (run or run_config()).model_copy(update={"root": f"s3://models/{number}"})
            job = train_job(run, run.foundation_models[0])
        job["spec"]["trainer"]["command"] = ["python", "-m", "exfm_components.launcher", "--no-python", "python", "-c"]
        job["spec"]["trainer"]["args"] = [PROGRAM, what or "complete", str(NUM_STEPS)]
        return job

    def run(self, job: dict[str, object], step: Step) -> None:
        """Do what the step train-fm does."""
        name = job["metadata"]["name"]  # type: ignore[index]
        with contextlib.redirect_stdout(Output(step)):
            run_job(self.cluster, job, log=log_of(self.cluster, name), report=step.report)

    def pods(self, job: dict[str, object]) -> list[str]:
        selector = f"{JOBSET_LABEL}={job['metadata']['name']}"  # type: ignore[index]
        return self.kubectl("get", "pods", f"--selector={selector}", "--output=name").split()


@pytest.fixture(scope="module")
def training(cluster: Path, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    folder = tmp_path_factory.mktemp("training")
    written = (COMPONENT / "rights.yaml").read_text().splitlines()
    shown = [line.removeprefix("# ") for line in written if line.startswith("#  ")]
    patches = yaml.safe_load("\n".join(shown))  # as its comment says
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump({"components": [os.path.relpath(COMPONENT, folder)], "patches": patches})
        .replace("my-profile", NAMESPACE)
        .replace("default-editor", "steps")
    )
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "steps", "namespace": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "pods", "namespace": NAMESPACE},
            "spec": {"hard": {"requests.memory": "8Gi"}},
        },
    ]
    kubectl("apply", "--filename=-", text=yaml.safe_dump_all(objects))
    kubectl("apply", "--server-side", f"--kustomize={folder}")
    own = kubeconfig_of("steps", namespace=NAMESPACE, kubeconfig=cluster, kubectl=kubectl, folder=folder)
    client = kubernetes.config.new_client_from_config(str(own))
    yield Training(
        Cluster(client, namespace=NAMESPACE), lambda *arguments: kubectl(f"--namespace={NAMESPACE}", *arguments)
    )
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    kubectl("delete", f"--kustomize={folder}", "--ignore-not-found", "--wait=false")


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_following, "POLL_S", 1.0)


def gone(training: Training, job: dict[str, object], *, within_s: float = 60) -> bool:
    """Return whether the job and its pods are gone, at the latest after this time."""
    name, deadline = job["metadata"]["name"], time.monotonic() + within_s  # type: ignore[index]
    while there := training.pods(job) or training.cluster.get("TrainJob", name) is not None:
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return not there


def test_a_step_with_the_components_rights_lacks_nothing(training: Training) -> None:
    assert missing_for_jobs(training.cluster) == ""
    others = Cluster(training.cluster._client, namespace="default")
    assert "may not create on trainjobs.trainer.kubeflow.org" in missing_for_jobs(others)
    with pytest.raises(ClusterError, match=r"needs Role exfm-trainer"):
        others.find("TrainJob")


def test_two_nodes_train_together_and_the_step_prints_their_log_once(training: Training) -> None:
    job, step = training.job(number="complete"), Step()
    training.run(job, step)
    walked = [line for line in step.lines if line.endswith("windows")]
    assert walked == [f"exfm | under way | train-fm fm | {n + 1} of {NUM_STEPS} windows" for n in range(NUM_STEPS)]
    assert "sum 2" in step.lines
    assert gone(training, job)


def test_an_error_that_rank_0_reports_is_the_steps_at_the_first_try(training: Training) -> None:
    job, step = training.job("fail", number="failed"), Step()
    with pytest.raises(StageError, match=r"^table labels has no column click$") as failed:
        training.run(job, step)
    assert failed.value.exit_code == 2
    assert sum(line.endswith(" | 1 of 16 windows") for line in step.lines) == 1, step
    again = Step()
    training.run(training.job(number="failed"), again)  # the same name
    assert "is of an earlier try and has ended" in str(again)
    assert "sum 2" in again.lines


def test_a_cancelled_step_deletes_its_job_and_pods(training: Training) -> None:
    job, step = training.job(number="cancelled"), Step()
    step.actions["3 of 16 windows"] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(StoppedError, match="the step was cancelled") as stopped:
        training.run(job, step)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert gone(training, job)


def test_a_step_that_is_retried_follows_the_job_that_it_began(training: Training) -> None:
    job, first, second = training.job(number="retried"), Step(), Step()

    def die() -> None:
        raise KeyboardInterrupt

    first.actions["3 of 16 windows"] = die
    with pytest.raises(KeyboardInterrupt):
        training.run(job, first)
    training.run(job, second)
    assert "is under way already; this step follows it" in second.lines[0]
    assert sum(line.endswith(" | 1 of 16 windows") for line in second.lines) == 1, second
    assert "sum 2" in second.lines


@pytest.mark.parametrize(
    ("platform", "told"),
    [
        ({"node_selector": {"pool": "gone"}}, "Unschedulable: 0/1 nodes are available"),
        ({"steps": {"train-fm": {"memory_mib": 5 * 1024}}}, "exceeded quota: pods"),
    ],
)
def test_what_keeps_a_job_from_starting_is_told_within_seconds(
    training: Training, platform: dict[str, object], told: str
) -> None:
    job, step = training.job(number=f"waits {told}", run=run_config(**platform)), Step()
    step.actions[told] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    started_s = time.monotonic()
    with pytest.raises(StoppedError):
        training.run(job, step)
    assert time.monotonic() - started_s < 60
    assert gone(training, job)


def test_without_the_runtime_no_job_is_made(training: Training) -> None:
    job = training.job(number="no runtime")
    job["spec"]["runtimeRef"]["name"] = "exfm-gone"  # type: ignore[index]
    with pytest.raises(ClusterError, match=r"exfm-gone.* not found"):
        training.run(job, Step())
