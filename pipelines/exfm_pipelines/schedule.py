"""A run's recurring run on a Kubeflow Pipelines server.

A run does what is due, so a night that is missed needs no run of its own, and two schedules for a moment do no harm.
"""

import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cronsim import CronSim, CronSimError

from exfm.errors import ConfigError
from exfm_components.run_config import RunConfig
from exfm_pipelines.compile import compile_pipeline
from exfm_pipelines.server import Server

FIELDS = 5
"""Of a schedule. Kubeflow's and the library's may have one more, for seconds."""

PAGE = 100
"""Recurring runs that a server lists at once."""


def schedule(config: RunConfig, *, cron: str, image: str, server: Server, experiment: str) -> str:
    """Make a run's recurring run what the run's file and `cron` say; return a line about it.

    Raises: ConfigError for a wrong `cron`, or if the server cannot be reached or refuses; what compile_pipeline raises.
    """
    first = next_time(cron, after=datetime.now(UTC))
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
        package = compile_pipeline(config, Path(scratch), image=image)
        with server.asking("accept the schedule") as client:
            pipeline_id, version_id = server.upload(package)
            experiment_id = server.experiment(experiment)
            found = list(recurring_runs(server, pipeline_id))
            kept = next((one for one in found if _is_so(one, version_id, cron, experiment_id)), None)
            if kept is None:
                # Kubeflow cannot change one. First the new one, so that a command that is killed leaves a schedule.
                client.create_recurring_run(
                    experiment_id,
                    job_name=package.stem,
                    cron_expression=seconds(cron),
                    max_concurrency=1,
                    no_catchup=True,
                    pipeline_id=pipeline_id,
                    version_id=version_id,
                    enable_caching=False,
                )
            others = [one for one in found if one is not kept]
            for other in others:
                client.delete_recurring_run(other.recurring_run_id)
    did = "stays" if kept is not None else "replaces another" if others else "is new"
    return f"{package.stem}: the schedule {cron!r} {did}; next {first:%Y-%m-%d %H:%M} UTC"


def recurring_runs(server: Server, pipeline_id: str) -> Iterator[Any]:
    """Yield the recurring runs of a pipeline. Raises: as kfp does."""
    token = ""
    while True:
        page = server.client.list_recurring_runs(page_token=token, page_size=PAGE, namespace=server.namespace or None)
        for one in page.recurring_runs or ():
            if one.pipeline_version_reference and one.pipeline_version_reference.pipeline_id == pipeline_id:
                yield one
        token = page.next_page_token
        if not token:
            return


def next_time(cron: str, *, after: datetime) -> datetime:
    """Return the next time of a schedule, in the time zone of `after`.

    Raises: ConfigError if it is none of five fields, as cron has them, or has what Kubeflow does not know: `L`, `#`,
    and 7 for Sunday.
    """
    wrong = ConfigError(f"cron is {cron!r}, expected minute, hour, day, month and weekday, such as '0 3 * * *'")
    fields = cron.split()
    if len(fields) != FIELDS or re.search(r"[L#]", cron) or re.search(r"7", fields[-1]):
        raise wrong
    try:
        return next(CronSim(cron, after))
    except (CronSimError, StopIteration) as error:
        raise wrong from error


def seconds(cron: str) -> str:
    """Return a schedule as Kubeflow writes it, with a field for seconds before the others."""
    return f"0 {cron}"


def cron_of(recurring: Any) -> str:
    """Return the schedule of a recurring run, without its seconds; empty: it is no cron's."""
    cron = recurring.trigger.cron_schedule if recurring.trigger else None
    return cron.cron.partition(" ")[2] if cron and cron.cron else ""


def _is_so(recurring: Any, version_id: str, cron: str, experiment_id: str) -> bool:
    return (
        recurring.pipeline_version_reference.pipeline_version_id == version_id
        and cron_of(recurring) == cron
        and recurring.experiment_id == experiment_id
        and recurring.status == "ENABLED"
    )
