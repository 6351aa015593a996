"""Runs of MLflow: one for each model version, one for each comparison of methods, and one for each run's log."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mlflow.entities import Metric, Run

from exfm.registry.mlflow_registry import Registry
from exfm.registry.pipeline_run import log_files, log_params, parent_of

MAX_METRICS = 1000
"""Metrics of one call: the limit of the REST API's log-batch."""


@contextmanager
def logging_run(
    registry: Registry, name: str, *, params: Mapping[str, Any], metrics: Sequence[Metric]
) -> Iterator[Run]:
    """Yield a new run with parameters, flattened, and metrics; it ends with the block, as failed if that raises.

    It is a child of the pipeline's run, if there is one.
    """
    client, parent = registry.client, parent_of(registry)
    experiment, tags = (parent.experiment_id, parent.tags) if parent else (registry.experiment(), {})
    run = client.create_run(experiment, run_name=name, tags=tags)
    with ending(registry, run):
        log_metrics(registry, run, metrics)
        log_params(registry, run.info.run_id, params)
        yield run


@contextmanager
def ending(registry: Registry, run: Run) -> Iterator[None]:
    """End a run with the block, as failed if that raises: a stopped process leaves no run that seems to go on."""
    try:
        yield
    except BaseException:
        registry.client.set_terminated(run.info.run_id, "FAILED")
        raise
    registry.client.set_terminated(run.info.run_id)


def log_metrics(registry: Registry, run: Run, metrics: Sequence[Metric]) -> None:
    """Add metrics to a run, in their order."""
    for start in range(0, len(metrics), MAX_METRICS):
        registry.client.log_batch(run.info.run_id, metrics=metrics[start : start + MAX_METRICS])


def log_comparison(
    registry: Registry, name: str, *, params: Mapping[str, Any], metrics: Mapping[str, float], files: Sequence[str]
) -> None:
    """Log a comparison as one run, with the files at these URIs as artifacts.

    Raises: StorageError if the registry does not answer, or a file is missing.
    """
    now_ms = int(time.time() * 1000)
    found = [Metric(key, value, now_ms, 0) for key, value in metrics.items()]
    with registry.reporting(), logging_run(registry, name, params=params, metrics=found) as run:
        log_files(registry, run.info.run_id, files)
