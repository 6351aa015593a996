"""A Kubeflow Pipelines that is there, with its cluster and its store, as a person works with it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from s3fs import S3FileSystem

from exfm_components.data_augmentation import das_of
from exfm_components.run_config import RunConfig, read_run_config
from nightly_log import day_of_log, file_name

STEPS_NAMESPACE = os.environ.get("KFP_STEPS_NAMESPACE", "kubeflow")
RUN_S, STEP_S = 1_800.0, 900.0
"""Longest wait for a run, and for a step of it to begin."""


@dataclass(frozen=True)
class Attempt:
    """A pod that ran a step."""

    pod: str
    uid: str
    """Argo gives the pod of another attempt the same name, if the first one ended early."""
    phase: str


@dataclass(frozen=True)
class Submitted:
    """A run that has ended."""

    run_id: str
    exit_code: int
    printed: str
    disturbed: Attempt | None


@dataclass(frozen=True)
class Kubeflow:
    """A server, and one run's file."""

    host: str
    image: str
    file: Path

    @property
    def config(self) -> RunConfig:
        """Return the run."""
        return read_run_config(self.file)

    @property
    def log(self) -> str:
        """Return the folder of the run's log."""
        return str(yaml.safe_load(self.file.read_text(encoding="utf-8"))["source"]["impressions"]).rpartition("/")[0]

    def put_day(self, day: int, *, bad: bool = False) -> None:
        """Put a day of the log into the store, feedback first; with `bad`, no impression has an id."""
        for part, rows in sorted(day_of_log(day).items()):
            written = rows.with_columns(id=pl.lit(None, pl.Int64)) if bad and part == "impressions" else rows
            with S3FileSystem().open(f"{self.log}/{part}/{file_name(day)}", "wb") as file:
                written.write_parquet(file)

    def exfm(self, *arguments: str) -> str:
        """Run `exfm pipelines` for this run, which must succeed, and return what it printed."""
        with self.started(*arguments) as process:
            printed, _ = process.communicate(timeout=RUN_S)
        assert process.returncode == 0, printed
        return printed

    @contextmanager
    def started(self, command: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Yield a command of `exfm pipelines` while it runs."""
        program = "from exfm.cli.main import main; main()"
        given = ["-c", str(self.file), "--host", self.host, *arguments]
        process = subprocess.Popen(
            [sys.executable, "-c", program, "pipelines", command, *given],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        with process:
            try:
                yield process
            finally:
                process.kill()

    def submit(self, *, during: Callable[[str], Attempt] | None = None) -> Submitted:
        """Run the pipeline to its end; `during` is called with the run's id."""
        with self.started("submit", "--image", self.image) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first.startswith("run "), first + process.stdout.read()
            run_id = first.split()[1]
            disturbed = during(run_id) if during else None
            printed, _ = process.communicate(timeout=RUN_S)
        return Submitted(run_id, process.returncode, printed, disturbed)

    def attempts(self, run_id: str, task: str) -> list[Attempt]:
        """Return the pods of a task that are still there, in order."""
        listed = kubectl("get", "pods", f"--selector=pipeline/runid={run_id}", "--output=json")
        pods = sorted(json.loads(listed)["items"], key=lambda pod: pod["metadata"]["creationTimestamp"])
        return [
            Attempt(pod["metadata"]["name"], pod["metadata"]["uid"], pod["status"]["phase"])
            for pod in pods
            if f".{task}(" in (node := pod["metadata"]["annotations"].get("workflows.argoproj.io/node-name", ""))
            and ".executor(" in node
        ]

    def wait_for_attempt(self, run_id: str, task: str, *, phase: str) -> Attempt:
        """Return a task's first attempt once it is in a phase."""
        give_up_s = time.monotonic() + STEP_S
        while True:
            found = [attempt for attempt in self.attempts(run_id, task) if attempt.phase == phase]
            if found:
                return found[0]
            assert time.monotonic() < give_up_s, f"no pod of {task} was {phase} within {STEP_S:g} s"
            time.sleep(0.5)

    def tables(self) -> dict[str, tuple[list[int], int]]:
        """Return the windows with rows, and the version, of each table that has windows done once."""
        das = das_of(self.config)
        states = {name: das.table(name, {}).state() for name in ("labels", "pseudo_labels", "examples")}
        return {name: (sorted(state.files), state.version) for name, state in states.items()}


def evict(pod: str) -> None:
    """Evict a pod, as a node that is drained does."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": STEPS_NAMESPACE},
    }
    path = f"/api/v1/namespaces/{STEPS_NAMESPACE}/pods/{pod}/eviction"
    kubectl("create", "--raw", path, "--filename=-", text=json.dumps(eviction))


def kubectl(*arguments: str, text: str = "") -> str:
    """Run kubectl in the namespace of steps, and return what it printed."""
    command = [os.environ.get("EXFM_KUBECTL", "kubectl"), f"--namespace={STEPS_NAMESPACE}", *arguments]
    done: Any = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return str(done.stdout)
