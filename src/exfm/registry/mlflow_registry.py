"""Vertical models as MLflow model versions, whose artifact is the bundle itself: no pickle, and nothing to convert."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import mlflow
import polars as pl
from mlflow.entities.model_registry import ModelVersion

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.manifest import read_json, write_json
from exfm.artifact.storage import Ref, is_local, join, reading
from exfm.config import Config
from exfm.errors import ConfigError, PromotionError, StorageError
from exfm.registry.model_card import ARTIFACT, git_commit, metrics_of, params_of, write_mlmodel
from exfm.registry.promotion import Judgement, PromotionRule, Verdict, verdict
from exfm.registry.recorded import learned_until, newest_recorded
from exfm.training.manifest import ModelManifest

EXPERIMENT = "exfm"
CANDIDATE, CHAMPION = "candidate", "champion"
DIGEST_TAG, PLACE_TAG, ID_TAG = "bundle_digest", "bundle_uri", "bundle_id"
"""Tags of a model version: the SHA-256 of the bundle's manifest.json, the bundle's place then, and its id."""
LEARNED_TAG = "learned_until"
"""Tag of a model version: the end of the last window that the model learned, in event time."""

PROMOTED_TAG = "promoted"
"""Tag of a model version that is the champion, or was."""

JUDGED = "judged"
"""The folder, among a run's artifacts, of what judgements need: its own, and the newest recorded predictions."""
JUDGEMENT, RECORDED = "judgement.json", "recorded.parquet"

MAX_METRICS = 1000
"""Metrics of one call: the limit of the REST API's log-batch."""

MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for a missing model or version, and for a missing alias."""


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


@dataclass(frozen=True)
class ResolvedVersion:
    """The version that a name in the registry meant when it was looked up."""

    version: int
    bundle: Ref
    """The registry's own copy."""
    place: str
    """The bundle's place when it was registered."""


@dataclass(frozen=True)
class Champion:
    """The version that candidates are compared with."""

    version: int
    bundle: Ref
    learned_until: int
    """End of the last window that it learned, in event time."""
    recorded: pl.DataFrame
    """The newest predictions that it recorded before it learned them (exfm.registry.recorded)."""


class Registry:
    """The registry that the environment's MLFLOW_TRACKING_URI names, or an embedded one below a root."""

    def __init__(self, uri: str, *, artifacts: str = "") -> None:
        """Take a tracking URI; `artifacts` is the place of a new experiment's artifacts; empty: the server's."""
        self._uri = uri
        with _reporting(uri):
            self._client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._artifacts = artifacts

    @classmethod
    def at(cls, root: str, *, create: bool) -> Self:
        """Return the registry for a root; with `create`, make the embedded one where it is not there yet.

        Raises: ConfigError if the root is remote and no tracking server is named; StorageError if there is none.
        """
        if uri := os.environ.get("MLFLOW_TRACKING_URI", ""):
            return cls(uri)
        if not is_local(root):
            raise ConfigError(
                f"the embedded registry needs a local root, not {root}; set MLFLOW_TRACKING_URI to a server"
            )
        folder = Path(join(root, "registry")).resolve()
        database = folder / "mlflow.db"
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        elif not database.is_file():
            raise StorageError(f"{database}: there is no registry; name its run's root with --root, or register first")
        return cls(f"sqlite:///{database}", artifacts=str(folder / "artifacts"))

    def require(self, names: Sequence[str] = ()) -> None:
        """Return if the registry answers, and candidates of these names can be judged.

        Raises: StorageError if it does not answer, or a champion was registered without the data of a judgement.
        """
        with _reporting(self._uri):
            self._client.search_experiments(max_results=1)
        for name in names:
            self._champion(name)

    def register(self, *, model: Ref, bundle: Ref, judgement: Judgement) -> Registration:
        """Add a version of a vertical model with its metrics, signature, input example, lineage and judgement.

        The version becomes `candidate`. Where a version has this bundle already, none is added. Where the judgement has
        no new window, none is added either, and the champion is returned.

        Raises: StorageError if the model, its bundle or the registry cannot be read or written.
        """
        if not judgement.has_news:
            return self._registration(judgement.name, judgement.champion, is_new=False)
        with _reporting(self._uri), reading(model) as model_folder, reading(bundle) as bundle_folder:
            trained = ModelManifest.read(model_folder)
            manifest = BundleManifest.read(bundle_folder, verify=False)  # reading() has
            version = self._version_of(manifest.name, bundle) or self._add(trained, manifest, bundle_folder, bundle)
            with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
                write_json(Path(scratch) / JUDGEMENT, judgement.to_dict())
                newest_recorded(model_folder, trained).write_parquet(Path(scratch) / RECORDED)
                self._client.log_artifacts(version.run_id, scratch, JUDGED)
            self._client.set_registered_model_alias(manifest.name, CANDIDATE, version.version)
        return self._registration(manifest.name, int(version.version))

    def resolve(self, uri: str) -> ResolvedVersion:
        """Return the version that `models:/NAME@ALIAS` names now, and its bundle.

        Raises: ConfigError if `uri` is not of that form; StorageError if there is no such model or alias, or the
        registry does not answer.
        """
        version = self._version(uri)
        return ResolvedVersion(int(version.version), self._bundle(version), version.tags.get(PLACE_TAG, ""))

    def champion(self, name: str) -> Champion | None:
        """Return a model's champion, or None if it has none.

        Raises: StorageError if it was registered without the data of a judgement, or the registry does not answer.
        """
        found = self._champion(name)
        if found is None:
            return None
        with self._judged(found) as folder:
            recorded = pl.read_parquet(folder / RECORDED)
        return Champion(int(found.version), self._bundle(found), int(found.tags[LEARNED_TAG]), recorded)

    def judgement(self, name: str, version: int) -> Judgement:
        """Return a version's judgement, made before it was registered.

        Raises: StorageError if there is no such version, or the registry does not answer.
        """
        with self._judged(self._numbered(name, version)) as folder:
            return Judgement.parse(read_json(folder / JUDGEMENT), source=f"judgement of {name} v{version}")

    def promote(self, name: str, version: int, rule: PromotionRule) -> Verdict:
        """Make a version the champion, and return the verdict on it; nothing changes if it is the champion already.

        Raises: as `require_promotable`.
        """
        found = self.require_promotable(name, version, rule)
        with _reporting(self._uri):
            self._client.set_model_version_tag(name, str(version), PROMOTED_TAG, "true")
            self._client.set_registered_model_alias(name, CHAMPION, str(version))
        return found

    def require_promotable(self, name: str, version: int, rule: PromotionRule) -> Verdict:
        """Return the verdict on a version that may become the champion, is the champion, or was.

        Raises: PromotionError if it does not pass, or was not judged against the version that is the champion now;
        StorageError if there is no such version, or the registry does not answer.
        """
        judgement = self.judgement(name, version)
        found = verdict(judgement, rule)
        was_champion = PROMOTED_TAG in self._numbered(name, version).tags
        with _reporting(self._uri):
            champion = int(self._client.get_registered_model(name).aliases.get(CHAMPION, 0))
        if champion == version or was_champion:
            return found
        if judgement.champion != champion:
            before = f"v{judgement.champion}" if judgement.champion else "no champion"
            raise PromotionError(
                f"{name} v{version} does not become champion: it was judged against {before}, but v{champion} is the "
                "champion now; run the pipeline again, which judges and registers it again"
            )
        if found.outcome != "passed":
            raise PromotionError(f"{name} v{version} does not become champion: {found}")
        return found

    def named_bundle_ids(self, name: str) -> set[str] | None:
        """Return the ids of the bundles that a model's aliases name, or None if the registry has no such model.

        Raises: StorageError if a version that an alias names has no bundle's id, or the registry does not answer.
        """
        with _reporting(self._uri):
            if not self._has(name):
                return None
            versions = set(self._client.get_registered_model(name).aliases.values())
        found = [self._numbered(name, int(version)) for version in versions]
        unknown = [version.version for version in found if ID_TAG not in version.tags]
        if unknown:
            raise StorageError(
                f"{name!r} version {unknown[0]} has an alias, but no tag {ID_TAG!r} with its bundle's id; remove "
                "the alias, or register the bundle again"
            )
        return {version.tags[ID_TAG] for version in found}

    @contextmanager
    def fetching(self, ref: Ref) -> Iterator[Path]:
        """Yield a local folder with a registered bundle, wherever the tracking server keeps its artifacts.

        Raises: StorageError if it is missing or its digest differs from that of `ref`.
        """
        if is_local(ref.uri):
            with reading(ref) as folder:
                yield folder
            return
        with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
            try:
                copy = mlflow.artifacts.download_artifacts(
                    artifact_uri=ref.uri, dst_path=scratch, tracking_uri=self._uri
                )
            except (mlflow.exceptions.MlflowException, OSError) as error:
                raise StorageError(f"{ref.uri}: cannot be fetched from the registry: {error}") from error
            with reading(Ref(uri=copy, digest=ref.digest)) as folder:
                yield folder

    def _add(self, trained: ModelManifest, manifest: BundleManifest, folder: Path, bundle: Ref) -> ModelVersion:
        run = self._client.create_run(self._experiment(), run_name=manifest.name)
        run_id, metrics = run.info.run_id, metrics_of(trained)
        for start in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])
        self._client.log_batch(run_id, params=params_of(trained))
        with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
            copy = Path(scratch) / ARTIFACT
            shutil.copytree(folder, copy)
            write_mlmodel(copy, manifest, run_id=run_id)
            self._client.log_artifacts(run_id, str(copy), ARTIFACT)
        self._client.set_terminated(run_id)
        if not self._has(manifest.name):
            self._client.create_registered_model(manifest.name)
        tags = manifest.lineage | {
            ID_TAG: manifest.bundle_id,
            DIGEST_TAG: bundle.digest,
            PLACE_TAG: bundle.uri,
            LEARNED_TAG: str(learned_until(trained)),
            "git_commit": git_commit(),
        }
        source = f"{run.info.artifact_uri}/{ARTIFACT}"
        return self._client.create_model_version(manifest.name, source=source, run_id=run_id, tags=tags)

    def _registration(self, name: str, version: int, *, is_new: bool = True) -> Registration:
        found = self._numbered(name, version)
        with _reporting(self._uri):
            aliases = self._client.get_registered_model(name).aliases
        return Registration(
            name=name,
            version=str(version),
            aliases=tuple(sorted(alias for alias, of in aliases.items() if int(of) == version)),
            bundle=self._bundle(found),
            place=found.tags[PLACE_TAG],
            bundle_id=found.tags[ID_TAG],
            is_new=is_new,
        )

    def _bundle(self, version: ModelVersion) -> Ref:
        if DIGEST_TAG not in version.tags:
            raise StorageError(
                f"{version.name!r} version {version.version} has no tag {DIGEST_TAG!r}; register its bundle again"
            )
        with _reporting(self._uri):
            source = self._client.get_model_version_download_uri(version.name, version.version)
        return Ref(uri=source, digest=version.tags[DIGEST_TAG])

    def _champion(self, name: str) -> ModelVersion | None:
        with _reporting(self._uri):
            if not self._has(name):
                return None
            version = self._client.get_registered_model(name).aliases.get(CHAMPION)
        if not version:
            return None
        found = self._numbered(name, int(version))
        if LEARNED_TAG not in found.tags:
            raise StorageError(
                f"{name} v{version}, the champion, was registered by an earlier release of exfm, which kept no "
                "predictions to compare with; remove its alias `champion`, and the next version is judged as the first"
            )
        return found

    def _version_of(self, name: str, bundle: Ref) -> ModelVersion | None:
        """Return the newest version that has a bundle; those of earlier releases cannot be judged."""
        versions = self._client.search_model_versions(
            f"name = '{name}' and tags.{DIGEST_TAG} = '{bundle.digest}'", order_by=["version_number DESC"]
        )
        return next((version for version in versions if LEARNED_TAG in version.tags), None)

    def _has(self, name: str) -> bool:
        return bool(self._client.search_registered_models(f"name = '{name}'"))

    def _numbered(self, name: str, version: int) -> ModelVersion:
        with _reporting(self._uri, missing=f"the registry has no version {version} of model {name!r}"):
            return self._client.get_model_version(name, str(version))

    @contextmanager
    def _judged(self, version: ModelVersion) -> Iterator[Path]:
        """Yield a folder with a version's judgement and its newest recorded predictions."""
        with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
            with _reporting(self._uri):
                if not self._client.list_artifacts(version.run_id, JUDGED):
                    raise StorageError(
                        f"{version.name} v{version.version} was registered without a judgement; run the pipeline "
                        "again, which judges and registers it again"
                    )
                folder = mlflow.artifacts.download_artifacts(
                    run_id=version.run_id, artifact_path=JUDGED, dst_path=scratch, tracking_uri=self._uri
                )
            yield Path(folder)

    def _version(self, uri: str) -> ModelVersion:
        found = re.fullmatch(r"models:/([^/@]+)@([^/@]+)", uri)
        if not found:
            raise ConfigError(f"{uri!r} names no model; expected models:/NAME@ALIAS")
        name, alias = found.groups()
        with _reporting(self._uri, missing=f"the registry has no model {name!r} with alias {alias!r}"):
            version: ModelVersion = self._client.get_model_version_by_alias(name, alias)
        return version

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found:
            return str(found.experiment_id)
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=self._artifacts or None))


def register_all(
    *, root: str, models: Sequence[Ref], bundles: Sequence[Ref], judgements: Sequence[Judgement]
) -> list[Registration]:
    """Return the versions of vertical models, registered with their bundles and judgements in that order."""
    registry = Registry.at(root, create=True)
    return [
        registry.register(model=model, bundle=bundle, judgement=judgement)
        for model, bundle, judgement in zip(models, bundles, judgements, strict=True)
    ]


def headline(registrations: Sequence[Registration]) -> str:
    """Return one line about the registered versions."""
    return ", ".join(
        f"{item.name} v{item.version} ({', '.join(item.aliases)})" if item.is_new else f"{item.name}: nothing new"
        for item in registrations
    )


@contextmanager
def _reporting(uri: str, *, missing: str = "") -> Iterator[None]:
    """Turn MLflow's errors into a StorageError that names the tracking URI, or says `missing` for no such object."""
    try:
        yield
    except (mlflow.exceptions.MlflowException, OSError) as error:  # uploads end in the latter
        if missing and getattr(error, "error_code", "") in MISSING:
            raise StorageError(f"{missing}: {error}") from error
        place = re.sub(r"//[^/@]*@", "//", uri)  # without a password
        raise StorageError(
            f"a request to the registry at {place} failed: {error}; check MLFLOW_TRACKING_URI, or the registry under "
            "--root, and that it can be reached"
        ) from error
