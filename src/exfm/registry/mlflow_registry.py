"""Vertical models as MLflow model versions, whose artifact is the bundle itself: no pickle, and nothing to convert."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read once, at the import below

import mlflow
import numpy as np
from mlflow.entities import Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema as TensorSchema
from mlflow.types import TensorSpec

from exfm.artifact.bundle import GOLDEN_REQUEST, BundleManifest
from exfm.artifact.storage import Ref, is_local, join, reading
from exfm.config import Config
from exfm.errors import ConfigError, PromotionError, StorageError
from exfm.features.oip import NUMPY_TYPES
from exfm.features.request import input_specs
from exfm.registry.promotion import PromotionRule, TestedVersion, Verdict, judge
from exfm.training.manifest import ModelManifest

EXPERIMENT = "exfm"
CANDIDATE, CHAMPION = "candidate", "champion"
ARTIFACT = "bundle"
DIGEST_TAG = "bundle_digest"
"""Of a model version: the SHA-256 of the bundle's manifest.json."""

OVERALL = "overall."
"""Begins the names of metrics over all windows together."""

MAX_METRICS = 1000
"""Of one call: the limit of the REST API's log-batch."""

MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow calls a model or version that it does not have, and an alias that a model does not have."""


class Registration(Config):
    """A model version in the registry."""

    name: str
    version: str
    aliases: tuple[str, ...]
    bundle: Ref
    """The registry's own copy."""
    bundle_id: str


@dataclass(frozen=True)
class ResolvedVersion:
    """What a name in the registry stood for when it was looked up."""

    version: int
    bundle: Ref


class Registry:
    """The registry that the environment's MLFLOW_TRACKING_URI names, or an embedded one below a root."""

    def __init__(self, uri: str, *, artifacts: str = "") -> None:
        """Take a tracking URI; `artifacts` is where a new experiment keeps them, empty where the server says so."""
        self._uri = uri
        with _telling(uri):
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
            raise StorageError(f"{database}: no registry there; name its run's root with --root, or register first")
        return cls(f"sqlite:///{database}", artifacts=str(folder / "artifacts"))

    def register(self, *, model: Ref, bundle: Ref) -> Registration:
        """Add a version of a vertical model with its metrics, signature, input example and lineage.

        The version becomes `candidate`, and `champion` too if the model has none yet that it could be held against.

        Raises: StorageError if the model, its bundle or the registry cannot be read or written.
        """
        with _telling(self._uri), reading(model) as model_folder, reading(bundle) as bundle_folder:
            trained = ModelManifest.read(model_folder)
            manifest = BundleManifest.read(bundle_folder, verify=False)  # reading() has
            run = self._client.create_run(self._experiment(), run_name=manifest.name)
            run_id = run.info.run_id
            metrics, params = _metrics(trained), _params(trained)
            for start in range(0, len(metrics), MAX_METRICS):
                self._client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])
            self._client.log_batch(run_id, params=params)
            with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
                folder = Path(scratch) / ARTIFACT
                shutil.copytree(bundle_folder, folder)
                _write_mlmodel(folder, manifest, run_id=run_id)
                self._client.log_artifacts(run_id, str(folder), ARTIFACT)
            self._client.set_terminated(run_id)
            source = f"{run.info.artifact_uri}/{ARTIFACT}"
            if not self._client.search_registered_models(f"name = '{manifest.name}'"):
                self._client.create_registered_model(manifest.name)
            tags = manifest.lineage | {
                "bundle_id": manifest.bundle_id,
                DIGEST_TAG: bundle.digest,
                "git_commit": _git_commit(),
            }
            version = self._client.create_model_version(manifest.name, source=source, run_id=run_id, tags=tags).version
            aliases = self._move_aliases(manifest.name, version)
        return Registration(
            name=manifest.name,
            version=str(version),
            aliases=aliases,
            bundle=Ref(uri=source, digest=bundle.digest),
            bundle_id=manifest.bundle_id,
        )

    def resolve(self, uri: str) -> ResolvedVersion:
        """Return the version that `models:/NAME@ALIAS` names now, and its bundle.

        Raises: ConfigError if `uri` is not of that form; StorageError if there is no such model or alias, or the
        registry does not answer.
        """
        version = self._version(uri)
        if DIGEST_TAG not in version.tags:
            raise StorageError(
                f"{version.name!r} version {version.version} has no tag {DIGEST_TAG!r}; register its bundle again"
            )
        with _telling(self._uri):
            source = self._client.get_model_version_download_uri(version.name, version.version)
        return ResolvedVersion(int(version.version), Ref(uri=source, digest=version.tags[DIGEST_TAG]))

    def judge(self, name: str, version: int, rule: PromotionRule) -> Verdict:
        """Return whether a version may become champion: it is held against the one that is, on the same windows.

        Raises: StorageError if there is no such version, or the registry does not answer.
        """
        tested = self._tested(name, version)
        with _telling(self._uri):
            champion = self._client.get_registered_model(name).aliases.get(CHAMPION)
        before = self._tested(name, int(champion)) if champion and int(champion) != version else None
        return judge(tested, before, rule)

    def promote(self, name: str, version: int, rule: PromotionRule) -> Verdict:
        """Make a version the champion, and return what spoke for it.

        Raises: PromotionError if it does not pass against the one that is; StorageError if there is no such version, or
        the registry does not answer.
        """
        verdict = self.judge(name, version, rule)
        if not verdict.passed:
            raise PromotionError(f"{name} v{version} does not become champion: {verdict}")
        with _telling(self._uri):
            self._client.set_registered_model_alias(name, CHAMPION, str(version))
        return verdict

    @contextmanager
    def fetching(self, ref: Ref) -> Iterator[Path]:
        """Yield a local folder with a registered bundle, wherever the tracking server keeps its artifacts.

        Raises: StorageError if it is missing or another one than `ref` says.
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

    def _tested(self, name: str, version: int) -> TestedVersion:
        figures: dict[str, dict[str, dict[int, float]]] = {"normalized_entropy": {}, "calibration": {}}
        with _telling(self._uri, missing=f"the registry has no version {version} of model {name!r}"):
            run_id = self._client.get_model_version(name, str(version)).run_id
            for key in self._client.get_run(run_id).data.metrics:
                task, _, figure = key.rpartition(".")
                if figure in figures and not task.startswith(OVERALL):
                    history = self._client.get_metric_history(run_id, key)
                    figures[figure][task] = {metric.step: metric.value for metric in history}
        return TestedVersion(version=version, **figures)

    def _version(self, uri: str) -> ModelVersion:
        found = re.fullmatch(r"models:/([^/@]+)@([^/@]+)", uri)
        if not found:
            raise ConfigError(f"{uri!r} names no model; expected models:/NAME@ALIAS")
        name, alias = found.groups()
        with _telling(self._uri, missing=f"the registry has no model {name!r} with alias {alias!r}"):
            version: ModelVersion = self._client.get_model_version_by_alias(name, alias)
        return version

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found:
            return str(found.experiment_id)
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=self._artifacts or None))

    def _move_aliases(self, name: str, version: str) -> tuple[str, ...]:
        aliases = [CANDIDATE]
        if CHAMPION not in self._client.get_registered_model(name).aliases:
            aliases.append(CHAMPION)
        for alias in aliases:
            self._client.set_registered_model_alias(name, alias, version)
        return tuple(aliases)


def register_all(*, root: str, models: Sequence[Ref], bundles: Sequence[Ref]) -> list[Registration]:
    """Register vertical models with their bundles, in pairs."""
    registry = Registry.at(root, create=True)
    return [registry.register(model=model, bundle=bundle) for model, bundle in zip(models, bundles, strict=True)]


def headline(registrations: Sequence[Registration]) -> str:
    """Return one line about what was registered."""
    return ", ".join(f"{item.name} v{item.version} ({', '.join(item.aliases)})" for item in registrations)


@contextmanager
def _telling(uri: str, *, missing: str = "") -> Iterator[None]:
    """Turn what MLflow raises into a StorageError that names the tracking URI; or says `missing`, where it is that."""
    try:
        yield
    except (mlflow.exceptions.MlflowException, OSError) as error:  # uploads end in the latter
        if missing and getattr(error, "error_code", "") in MISSING:
            raise StorageError(f"{missing}: {error}") from error
        place = re.sub(r"//[^/@]*@", "//", uri)  # without a password
        raise StorageError(
            f"the registry at {place} does not do as asked: {error}; check MLFLOW_TRACKING_URI, or the registry under "
            "--root, and whether it can be reached"
        ) from error


def _metrics(trained: ModelManifest) -> list[Metric]:
    now_ms = int(time.time() * 1000)
    figures = ("normalized_entropy", "auc", "calibration")
    per_window = [
        Metric(f"{task}.{figure}", value, now_ms, window.window)
        for window in trained.qualities
        for task, quality in window.tasks.items()
        for figure in figures
        if (value := getattr(quality, figure)) is not None
    ]
    overall = [
        Metric(f"{OVERALL}{task}.{figure}", value, now_ms, 0)
        for task, quality in trained.overall.items()
        for figure in figures
        if (value := getattr(quality, figure)) is not None
    ]
    return per_window + overall


def _params(trained: ModelManifest) -> list[Param]:
    settings = {"model": trained.model.to_dict(), "training": trained.training.to_dict()}
    flat = _flatten(settings) | {"num_parameters": trained.num_parameters, "teacher": trained.teacher}
    return [Param(key, str(value)) for key, value in flat.items()]


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat


def _write_mlmodel(folder: Path, manifest: BundleManifest, *, run_id: str) -> None:
    inputs = [
        TensorSpec(np.dtype(NUMPY_TYPES[spec.datatype]), (-1,), spec.name)
        for spec in input_specs(manifest.feature_schema)
        if spec.required
    ]
    outputs = [TensorSpec(np.dtype(np.float32), (-1,), task) for task in manifest.tasks]
    model = Model(
        artifact_path=ARTIFACT,
        run_id=run_id,
        signature=ModelSignature(inputs=TensorSchema(inputs), outputs=TensorSchema(outputs)),
        saved_input_example_info={"artifact_path": GOLDEN_REQUEST, "type": "json_object"},
    )
    model.add_flavor("exfm", format_version=manifest.format_version, bundle_id=manifest.bundle_id)
    model.save(str(folder / "MLmodel"))


def _git_commit() -> str:
    """Return the commit of the working folder, or what EXFM_GIT_COMMIT says where there is no checkout (in a pod)."""
    if commit := os.environ.get("EXFM_GIT_COMMIT", ""):
        return commit
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"
