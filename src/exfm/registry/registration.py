"""Registration of vertical models: a version of each, with its bundle, figures, lineage and judgement."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.storage import Ref, reading
from exfm.config import Config
from exfm.registry.champion import keep_judgement
from exfm.registry.mlflow_registry import DIGEST_TAG, ID_TAG, LEARNED_TAG, PLACE_TAG, Registry
from exfm.registry.model_card import (
    ARTIFACT,
    datasets_of,
    description_of,
    git_commit,
    metrics_of,
    params_of,
    write_mlmodel,
)
from exfm.registry.promotion import Judgement
from exfm.registry.recorded import newest_recorded
from exfm.registry.runs import logging_run
from exfm.training.manifest import ModelManifest

CANDIDATE = "candidate"
"""The alias of the version that was registered last."""


class Registration(Config):
    """A model version in the registry."""

    name: str
    version: str
    aliases: tuple[str, ...]
    bundle: Ref
    """The registry's own copy."""
    place: str
    """The bundle's place when it was registered."""
    bundle_id: str
    is_new: bool = True
    """Whether the run learned new windows; otherwise this is the champion."""


def register_all(
    *, root: str, models: Sequence[Ref], bundles: Sequence[Ref], judgements: Sequence[Judgement]
) -> list[Registration]:
    """Return the versions of vertical models, registered with their bundles and judgements in that order."""
    registry = Registry.at(root, create=True)
    return [
        register(registry, model=model, bundle=bundle, judgement=judgement)
        for model, bundle, judgement in zip(models, bundles, judgements, strict=True)
    ]


def register(registry: Registry, *, model: Ref, bundle: Ref, judgement: Judgement) -> Registration:
    """Add a version of a vertical model with its metrics, signature, input example, lineage and judgement.

    The version becomes `candidate`. If a version with this bundle exists, no version is added. If the judgement has no
    new window, none is added, and the champion is returned.

    Raises: StorageError if the model, its bundle or the registry cannot be read or written.
    """
    if not judgement.has_news:
        return _registration(registry, registry.version(judgement.name, judgement.champion), is_new=False)
    with registry.reporting(), reading(model) as model_folder, reading(bundle) as bundle_folder:
        trained = ModelManifest.read(model_folder)
        manifest = BundleManifest.read(bundle_folder, verify=False)  # reading() has
        version = _version_of(registry, manifest.name, bundle)
        version = version or _add(registry, trained, manifest, bundle_folder, bundle)
        keep_judgement(registry, version, judgement, recorded=newest_recorded(trained))
        registry.client.set_registered_model_alias(manifest.name, CANDIDATE, version.version)
    return _registration(registry, registry.version(manifest.name, int(version.version)), is_new=True)


def headline(registrations: Sequence[Registration]) -> str:
    """Return one line about the registered versions."""
    return ", ".join(
        f"{item.name} v{item.version} ({', '.join(item.aliases)})" if item.is_new else f"{item.name}: nothing new"
        for item in registrations
    )


def _version_of(registry: Registry, name: str, bundle: Ref) -> ModelVersion | None:
    """Return the newest version that has a bundle; those of earlier releases cannot be judged."""
    versions = registry.client.search_model_versions(
        f"name = '{name}' and tags.{DIGEST_TAG} = '{bundle.digest}'", order_by=["version_number DESC"]
    )
    return next((version for version in versions if LEARNED_TAG in version.tags), None)


def _add(
    registry: Registry, trained: ModelManifest, manifest: BundleManifest, folder: Path, bundle: Ref
) -> ModelVersion:
    client = registry.client
    registry.claim(manifest.name, is_foundation=False)
    with (
        logging_run(registry, manifest.name, params=params_of(trained), metrics=metrics_of(trained)) as run,
        tempfile.TemporaryDirectory(prefix="exfm-") as scratch,
    ):
        run_id, copy = run.info.run_id, Path(scratch) / ARTIFACT
        shutil.copytree(folder, copy)
        write_mlmodel(copy, manifest, run_id=run_id)
        client.log_artifacts(run_id, str(copy), ARTIFACT)
        client.log_inputs(run_id, datasets_of(trained, trained.tables))
        client.set_tag(run_id, MLFLOW_RUN_NOTE, description_of(trained))
    tags = manifest.lineage | {
        ID_TAG: manifest.bundle_id,
        DIGEST_TAG: bundle.digest,
        PLACE_TAG: bundle.uri,
        LEARNED_TAG: str(trained.learned_until),
        "git_commit": git_commit(),
    }
    source = f"{run.info.artifact_uri}/{ARTIFACT}"
    return client.create_model_version(
        manifest.name, source=source, run_id=run_id, tags=tags, description=description_of(trained)
    )


def _registration(registry: Registry, version: ModelVersion, *, is_new: bool) -> Registration:
    aliases = registry.aliases(version.name) or {}
    return Registration(
        name=version.name,
        version=str(version.version),
        aliases=tuple(sorted(alias for alias, of in aliases.items() if of == int(version.version))),
        bundle=registry.bundle_of(version),
        place=version.tags[PLACE_TAG],
        bundle_id=version.tags[ID_TAG],
        is_new=is_new,
    )
