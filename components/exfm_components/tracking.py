"""The run of MLflow that has a run of the pipeline: the first step begins it, and step `report` ends it."""

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from exfm.environment import PIPELINE_RUN
from exfm.registry.mlflow_registry import Registry
from exfm.registry.model_card import git_commit
from exfm.registry.pipeline_run import begin, end
from exfm_components.run_config import RunConfig


def begin_tracking(run: RunConfig) -> None:
    """Make the run, with the settings that differ from their defaults; a step by itself has none.

    Raises: StorageError if the registry does not answer.
    """
    if os.environ.get(PIPELINE_RUN):
        settings = run.model_dump(mode="json", exclude_defaults=True, exclude={"feature_schema"})
        begin(Registry.at(run.root, create=True), name=run.name, root=run.root, settings=settings, commit=git_commit())


def end_tracking(
    run: RunConfig, *, files: Sequence[str] = (), plots: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """End the run, with the files at these URIs as artifacts, and plots as SVG by name.

    Raises: StorageError if the registry does not answer, or a file is missing.
    """
    if os.environ.get(PIPELINE_RUN):
        end(Registry.at(run.root, create=True), files=files, plots=plots)
