"""What a Kubeflow Pipelines server says of a run's pipeline: its schedule, and its newest runs."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from exfm.errors import ConfigError
from exfm_components.run_config import RunConfig
from exfm_pipelines.schedule import cron_of, next_time, recurring_runs
from exfm_pipelines.server import Server, failures
from exfm_pipelines.teach_distil_serve import pipeline_name

LOOKED_AT = 100
"""Newest runs of a server or a profile among which those of a pipeline are looked for."""


def status_of(config: RunConfig, *, server: Server, num_runs: int) -> list[str]:
    """Return lines about a run's schedule, and about the newest runs of its pipeline, the newest first.

    Raises: ConfigError if the server cannot be reached or refuses.
    """
    name = pipeline_name(config)
    with server.asking("list the pipeline's runs") as client:
        pipeline_id = server.find_pipeline(name)
        if pipeline_id is None:
            return [f"{name}: not in Kubeflow Pipelines; `exfm pipelines schedule` brings it there"]
        schedules = [_schedule(one) for one in recurring_runs(server, pipeline_id)]
        listed = client.list_runs(page_size=LOOKED_AT, sort_by="created_at desc", namespace=server.namespace or None)
        runs = [
            run
            for run in listed.runs or ()
            if run.pipeline_version_reference and run.pipeline_version_reference.pipeline_id == pipeline_id
        ][:num_runs]
        told = [line for run in runs for line in _run(client.get_run(run.run_id))]
    told = told or [f"no run among the newest {LOOKED_AT} of this server"]
    return [f"{name}: {'; '.join(schedules) or 'no schedule'}", *told]


def _schedule(recurring: Any) -> str:
    cron = cron_of(recurring)
    if recurring.status != "ENABLED":
        return f"schedule {cron!r}, paused"
    try:
        return f"schedule {cron!r}, next {next_time(cron, after=datetime.now(UTC)):%Y-%m-%d %H:%M} UTC"
    except ConfigError:  # made by other means
        return f"schedule {recurring.display_name}"


def _run(run: Any) -> Iterator[str]:
    ended = run.finished_at if run.finished_at and run.finished_at.year > 1970 else None
    took = f", {(ended - run.created_at).total_seconds() / 60:.0f} min" if ended else ""
    yield f"{run.created_at:%Y-%m-%d %H:%M}  {run.state}{took}"
    if run.state == "FAILED":
        yield from (f"  {line}" for line in failures(run))
