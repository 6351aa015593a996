"""A run's pipeline on a Kubeflow Pipelines server: upload a version of it, start it and follow it."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import kfp_server_api
import urllib3

from exfm.errors import StageError
from exfm_components.run_config import RunConfig
from exfm_pipelines.compile import compile_pipeline, step_names
from exfm_pipelines.server import Client, Server, failures, first_line

POLL_S = 2.0
ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})

Report = Callable[[str], None]
"""Takes one line about the progress."""


def submit(config: RunConfig, *, image: str, server: Server, experiment: str, report: Report, until: str = "") -> None:
    """Return once the run of a run's pipeline has succeeded.

    `until`, a date, says up to where the log is complete; empty: what its files say.

    Raises: what compile_pipeline raises; ConfigError if the server cannot be reached or refuses; StageError if the run
    does not succeed, with the messages of its steps.
    """
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
        package = compile_pipeline(config, Path(scratch), image=image)
        names = step_names(package)
        with server.asking("accept the pipeline") as client:
            pipeline_id, version_id = server.upload(package)
            started = client.run_pipeline(
                server.experiment(experiment),
                f"{config.name} {time.strftime('%Y-%m-%d %H:%M:%S')}",
                pipeline_id=pipeline_id,
                version_id=version_id,
                params={"until": until} if until else {},
                enable_caching=False,
            )
    run_id = str(started.run_id)
    report(f"run {run_id}")
    try:
        _follow(client, run_id, names, report=report)
    except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
        raise StageError(f"run {run_id} is running, but can no longer be followed: {first_line(error)}") from error


def _follow(client: Client, run_id: str, names: Mapping[str, str], *, report: Report) -> None:
    began_s, reported = time.monotonic(), set[str]()
    while True:
        run = client.get_run(run_id)
        tasks = run.run_details.task_details if run.run_details else None
        for task in sorted(tasks or [], key=lambda task: str(task.start_time)):
            if task.state in ENDED and task.task_id not in reported and task.display_name in names:
                reported.add(task.task_id)
                report(f"{time.monotonic() - began_s:5.0f} s  {names[task.display_name]}: {task.state}")
        if run.state in ENDED:
            break
        time.sleep(POLL_S)
    if run.state != "SUCCEEDED":
        raise StageError(f"run {run_id} {run.state}: {'; '.join(failures(run)) or 'see its log in the UI'}")
    report(f"{time.monotonic() - began_s:5.0f} s  {run.state}")
