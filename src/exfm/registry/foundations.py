"""Foundation models as MLflow model versions, which are never served: a version says what a state is made of.

A version has the model's manifest and a reference to it. The weights stay below the run's root.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from exfm.artifact.manifest import write_json
from exfm.artifact.storage import MANIFEST, Ref, reading
from exfm.artifact.stores import join
from exfm.das.lineage import Learned, learned_by
from exfm.registry.log_run import ROOT_TAG
from exfm.registry.mlflow_registry import FOUNDATION, KIND_TAG, LEARNED_TAG, STATE_TAG, Registry
from exfm.registry.model_card import datasets_of, description_of, git_commit, metrics_of, params_of
from exfm.registry.runs import logging_run
from exfm.tables.reference import TableRef
from exfm.training.manifest import ModelManifest

LEARNED = ("impressions", "labels")
"""Tables that a foundation model learns from."""

ARTIFACT = "foundation"
"""The name of a version's folder among its run's artifacts."""

REFERENCE = "reference.json"
"""Among them, the reference to the model below the run's root."""

WEIGHTS_TAG, PARENT_TAG = "state_digest", "parent_state"
"""Tags of a version: the SHA-256 of its state's weights, and the state that this one went on from; empty: none."""


@dataclass(frozen=True)
class FoundationVersion:
    """A version of a foundation model in the registry."""

    name: str
    version: int
    is_new: bool

    def __str__(self) -> str:
        """Return it as part of a line."""
        return f"{self.name} v{self.version}" if self.is_new else f"{self.name}: nothing new"


def register_foundations(*, root: str, models: Sequence[Ref]) -> list[FoundationVersion]:
    """Return the versions of foundation models that learned below a root.

    Raises: what `register_foundation` raises.
    """
    registry = Registry.at(root, create=True)
    return [register_foundation(registry, model=model, root=root) for model in models]


def register_foundation(registry: Registry, *, model: Ref, root: str) -> FoundationVersion:
    """Add a version of a foundation model's newest state, with its metrics, tables and manifest.

    If the newest state has a version, none is added.

    Raises: ConfigError if a vertical model has its name; StorageError if the model, its tables or the registry cannot
    be read or written; DataError if the tables lack the state.
    """
    with reading(model) as folder:
        trained = ModelManifest.read(folder)
    state = trained.snapshots[-1]
    with registry.reporting():
        known = f"name = '{trained.name}' and tags.{STATE_TAG} = '{state.version}'"
        same = registry.client.search_model_versions(f"{known} and tags.{WEIGHTS_TAG} = '{state.digest}'")
    if same:
        return FoundationVersion(trained.name, max(int(version.version) for version in same), is_new=False)
    learned = learned_by(root, state.version)
    registry.claim(trained.name, is_foundation=True)
    with registry.reporting():
        added = _add(registry, trained, model, learned, root=root)
    return FoundationVersion(trained.name, int(added.version), is_new=True)


def manifest_of(registry: Registry, version: ModelVersion) -> ModelManifest:
    """Return the manifest of a model as it was when this version of it was registered.

    Raises: StorageError if the registry does not answer, or if the artifact is gone.
    """
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch, registry.reporting():
        folder = mlflow.artifacts.download_artifacts(
            run_id=version.run_id, artifact_path=ARTIFACT, dst_path=scratch, tracking_uri=registry.uri
        )
        return ModelManifest.read(Path(folder))


def _add(registry: Registry, trained: ModelManifest, model: Ref, learned: Learned, *, root: str) -> ModelVersion:
    client, state, description = registry.client, trained.snapshots[-1], description_of(trained)
    tables = {
        name: TableRef(table=join(root, "tables", name), version=learned.inputs[name]) for name in LEARNED
    } | trained.tables
    with (
        logging_run(registry, trained.name, params=params_of(trained), metrics=metrics_of(trained)) as run,
        tempfile.TemporaryDirectory(prefix="exfm-") as scratch,
    ):
        write_json(Path(scratch) / MANIFEST, trained.to_dict())
        write_json(Path(scratch) / REFERENCE, model.to_dict())
        client.log_artifacts(run.info.run_id, scratch, ARTIFACT)
        client.log_inputs(run.info.run_id, datasets_of(trained, tables))
        client.set_tag(run.info.run_id, MLFLOW_RUN_NOTE, description)
    tags = {
        KIND_TAG: FOUNDATION,
        STATE_TAG: state.version,
        WEIGHTS_TAG: state.digest,
        PARENT_TAG: learned.parent,
        LEARNED_TAG: str(trained.learned_until),
        ROOT_TAG: root,
        "manifest_uri": model.uri,
        "manifest_digest": model.digest,
        "git_commit": git_commit(),
    } | {name: f"version {ref.version}" for name, ref in tables.items()}
    source = f"{run.info.artifact_uri}/{ARTIFACT}"
    return client.create_model_version(
        trained.name, source=source, run_id=run.info.run_id, tags=tags, description=description
    )
