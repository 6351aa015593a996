"""A run of MLflow for each run of the pipeline, and what is logged by its steps as its children.

Where Kubeflow Pipelines' MLflow plugin has made a run for a step, that run is the parent instead.
"""

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mlflow.entities import Param
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from exfm.artifact.stores import read_file
from exfm.environment import IMAGE, PIPELINE_RUN
from exfm.registry.mlflow_registry import Registry

PLUGIN_RUN, PLUGIN_EXPERIMENT = "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"
"""Environment variables in which Kubeflow Pipelines' MLflow plugin names its run of a step, and the experiment."""

RUN_TAG, ROOT_TAG = "exfm_pipeline_run", "exfm_pipeline_root"
"""Tags of a pipeline's run: its id, and its root."""

MAX_PARAM, MAX_PARAMS = 6_000, 100
"""Characters of a parameter that MLflow takes, and parameters of one call: the limit of the REST API's log-batch."""

PLOTS = "plots"
"""The folder of a run's plots among its artifacts."""

ABANDONED_MS = 7 * 24 * 3_600 * 1_000
"""Age from which on a run that was never ended has failed: another run of the same root may be at work."""


@dataclass(frozen=True)
class Parent:
    """The run that others are children of."""

    experiment_id: str
    run_id: str

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags of its children."""
        return {MLFLOW_PARENT_RUN_ID: self.run_id}


def parent_of(registry: Registry) -> Parent | None:
    """Return the run of the pipeline's run that this process is a step of; None: there is none.

    Raises: MLflow's errors; see Registry.reporting.
    """
    if run_id := os.environ.get(PLUGIN_RUN, ""):
        experiment = os.environ.get(PLUGIN_EXPERIMENT) or registry.client.get_run(run_id).info.experiment_id
        return Parent(experiment, run_id)
    pipeline_run = os.environ.get(PIPELINE_RUN, "")
    if not pipeline_run:
        return None
    found = registry.client.search_runs([registry.experiment()], f"tags.{RUN_TAG} = '{pipeline_run}'", max_results=1)
    return Parent(found[0].info.experiment_id, found[0].info.run_id) if found else None


def begin(registry: Registry, *, name: str, root: str, settings: Mapping[str, Any], commit: str) -> None:
    """Make the run of this process's pipeline run, with the settings that differ from their defaults.

    Runs of the same root that began a week before and were never ended have failed. Called again, it completes what
    an earlier call left.

    Raises: StorageError if the registry does not answer.
    """
    pipeline_run = os.environ.get(PIPELINE_RUN, "")
    if not pipeline_run:
        return
    with registry.reporting():
        client, parent = registry.client, parent_of(registry)
        if parent is None:
            experiment, before_ms = registry.experiment(), int(time.time() * 1_000) - ABANDONED_MS
            is_open = f"tags.{ROOT_TAG} LIKE '%' and attributes.status = 'RUNNING'"
            for old in client.search_runs([experiment], f"{is_open} and start_time < {before_ms}"):
                if old.data.tags[ROOT_TAG] == root:  # a filter takes no apostrophe
                    client.set_terminated(old.info.run_id, "FAILED")
            tags = {RUN_TAG: pipeline_run, ROOT_TAG: root, "git_commit": commit, "image": os.environ.get(IMAGE, "")}
            known = {tag: value for tag, value in tags.items() if value}
            run = client.create_run(experiment, run_name=name, tags=known)
            parent = Parent(experiment, run.info.run_id)
        log_params(registry, parent.run_id, settings)


def end(registry: Registry, *, files: Sequence[str] = (), plots: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """End the run of this process's pipeline run, with the files at these URIs as artifacts, and plots as SVG by name.

    Raises: StorageError if the registry does not answer, or a file is missing.
    """
    with registry.reporting():
        parent = parent_of(registry)
        if parent is None:
            return
        log_files(registry, parent.run_id, files)
        for name, svg in plots.items():
            registry.client.log_text(parent.run_id, svg.decode(), f"{PLOTS}/{name}.svg")
        if not os.environ.get(PLUGIN_RUN):  # Kubeflow ends its own
            registry.client.set_terminated(parent.run_id)


def log_files(registry: Registry, run_id: str, uris: Sequence[str]) -> None:
    """Log text files at these URIs as artifacts, by their names."""
    for uri in uris:
        registry.client.log_text(run_id, read_file(uri).decode(), uri.rpartition("/")[2])


def log_params(registry: Registry, run_id: str, settings: Mapping[str, Any]) -> None:
    """Log settings as parameters by their paths; those that are there already stay."""
    params = [Param(key_of(path), str(value)[:MAX_PARAM]) for path, value in flattened(settings)]
    for start in range(0, len(params), MAX_PARAMS):
        registry.client.log_batch(run_id, params=params[start : start + MAX_PARAMS])


def key_of(name: str) -> str:
    """Return a name with `_` for characters that names of metrics and parameters cannot have."""
    return re.sub(r"[^\w./ -]", "_", name)


def flattened(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return settings by their paths, such as `vertical_models.news.training.batch_size`."""
    if isinstance(value, Mapping) and value:
        return [one for key, item in value.items() for one in flattened(item, f"{prefix}.{key}" if prefix else key)]
    if isinstance(value, Sequence) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        rest = ({key: of for key, of in item.items() if key != "name"} for item in value)
        named = zip(value, rest, strict=True)
        return [one for item, others in named for one in flattened(others, f"{prefix}.{item['name']}")]
    return [(prefix, value)] if prefix else []
