"""A run's pipeline on a Kubeflow Pipelines server: upload a version of it, start it and follow it."""

import json
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3

from exfm.errors import ConfigError, StageError
from exfm_components.run_config import RunConfig
from exfm_pipelines.compile import compile_pipeline

POLL_S = 2.0
ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})

_MACHINERY = re.compile(r"-driver|^executor|\(\d+\)$")
"""Matches names of a run's tasks that are not steps: Kubeflow's own around each step, and retries."""

Report = Callable[[str], None]
"""Takes one line about the progress."""


class _Client(kfp.Client):  # type: ignore[misc]  # kfp has no types
    """A client that fails at once, with the server's answer; kfp's own retries for 20 s and hides the answer."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> kfp_server_api.V2beta1GetHealthzResponse:
        """Return the server's health; `sleep_duration` is kfp's, and not used.

        Raises: ApiException.
        """
        return self._healthz_api.healthz_service_get_healthz()


def submit(
    config: RunConfig, *, image: str, host: str, token: str, namespace: str, experiment: str, report: Report
) -> None:
    """Return once the run of a run's pipeline has succeeded.

    Empty `host` or `token`: what kfp finds, a kubeconfig's cluster or a pod's own. `namespace` is that of a profile, in
    multi-user mode; empty: single-user mode.

    Raises: what compile_pipeline raises; ConfigError if the server cannot be reached or refuses; StageError if the run
    does not succeed, with the messages of its steps.
    """
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
        package = compile_pipeline(config, Path(scratch), image=image)
        try:
            with _quiet():
                client = _Client(host=host or None, existing_token=token or None)
                run_id = _start(client, config, package, namespace=namespace, experiment=experiment)
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise ConfigError(
                f"Kubeflow Pipelines at {host or 'the current cluster'} did not accept the pipeline: "
                f"{_first_line(error)}; check --host, --token and --namespace"
            ) from error
    report(f"run {run_id}")
    try:
        _follow(client, run_id, report=report)
    except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
        raise StageError(f"run {run_id} is running, but can no longer be followed: {_first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide kfp's output: a warning about old servers, and links that do not work."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.filterwarnings("ignore", message="This client only works", category=FutureWarning)
        yield


def _start(client: kfp.Client, config: RunConfig, package: Path, *, namespace: str, experiment: str) -> str:
    """Return the id of a run of the pipeline's new version."""
    pipeline_id, version_id = _upload(client, package, namespace=namespace)
    started = client.run_pipeline(
        client.create_experiment(experiment, namespace=namespace or None).experiment_id,
        f"{config.name} {_stamp()}",
        pipeline_id=pipeline_id,
        version_id=version_id,
        enable_caching=False,
    )
    return str(started.run_id)


def _upload(client: kfp.Client, package: Path, *, namespace: str) -> tuple[str, str]:
    """Return the ids of the pipeline, which has its package's name, and of its new version."""
    name = package.stem
    named = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
    found = client.list_pipelines(filter=json.dumps(named), namespace=namespace or None).pipelines
    pipeline_id = found[0].pipeline_id if found else None
    if pipeline_id is None:
        uploaded = client.upload_pipeline(str(package), pipeline_name=name, namespace=namespace or None)
        pipeline_id = uploaded.pipeline_id
        [version] = client.list_pipeline_versions(pipeline_id).pipeline_versions
    else:
        version = client.upload_pipeline_version(str(package), f"{name} {_stamp()}", pipeline_id=pipeline_id)
    return str(pipeline_id), str(version.pipeline_version_id)


def _follow(client: kfp.Client, run_id: str, *, report: Report) -> None:
    began_s, reported = time.monotonic(), set[str]()
    while True:
        run = client.get_run(run_id)
        tasks = run.run_details.task_details if run.run_details else None
        for task in sorted(tasks or [], key=lambda task: str(task.start_time)):
            if task.state in ENDED and task.task_id not in reported and not _MACHINERY.search(task.display_name):
                reported.add(task.task_id)
                report(f"{time.monotonic() - began_s:5.0f} s  {task.display_name}: {task.state}")
        if run.state in ENDED:
            break
        time.sleep(POLL_S)
    if run.state != "SUCCEEDED":
        raise StageError(f"run {run_id} {run.state}: {_failures(run) or 'see its log in the UI'}")
    report(f"{time.monotonic() - began_s:5.0f} s  {run.state}")


def _failures(run: Any) -> str:
    tasks = run.run_details.task_details if run.run_details else None
    return "; ".join(f"{task.display_name}: {task.error.message}" for task in tasks or [] if task.error)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _stamp() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
