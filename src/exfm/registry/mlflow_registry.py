"""The registry of models: MLflow model versions.

A vertical model's artifact is its bundle itself: no pickle, and nothing to convert.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import mlflow
from mlflow.entities.model_registry import ModelVersion

from exfm.artifact.storage import Ref, reading
from exfm.artifact.stores import is_local, join
from exfm.errors import ConfigError, StorageError

EXPERIMENT = "exfm"
DIGEST_TAG, PLACE_TAG, ID_TAG = "bundle_digest", "bundle_uri", "bundle_id"
"""Tags of a model version: the SHA-256 of the bundle's manifest.json, the bundle's place then, and its id."""
LEARNED_TAG = "learned_until"
"""Tag of a model version: the end of the last window that the model learned, in event time."""
KIND_TAG, FOUNDATION = "kind", "foundation"
"""Tag of a registered model and of its versions, and its value where the model teaches others and is never served."""
STATE_TAG = "state"
"""Tag of a foundation model's version: the state that it is of."""

MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for a missing model or version, and for a missing alias."""


class Registry:
    """The registry that the environment's MLFLOW_TRACKING_URI names, or an embedded one below a root.

    Its methods raise StorageError if the registry does not answer, or lacks what they return.
    """

    def __init__(self, uri: str, *, artifacts: str = "") -> None:
        """Take a tracking URI; `artifacts` is the place of a new experiment's artifacts; empty: the server's."""
        self.uri = uri
        with self.reporting():
            self.client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
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

    @property
    def place(self) -> str:
        """Return the tracking URI without a password."""
        return re.sub(r"//[^/@]*@", "//", self.uri)

    @contextmanager
    def reporting(self, *, missing: str = "") -> Iterator[None]:
        """Turn MLflow's errors into a StorageError that names the tracking URI, or says `missing` if that is so."""
        try:
            yield
        except (mlflow.exceptions.MlflowException, OSError) as error:  # uploads end in the latter
            if missing and getattr(error, "error_code", "") in MISSING:
                raise StorageError(f"{missing}: {error}") from error
            raise StorageError(
                f"a request to the registry at {self.place} failed: {error}; check MLFLOW_TRACKING_URI, or the "
                "registry under --root, and that it can be reached"
            ) from error

    def require(self) -> None:
        """Return if the registry answers."""
        with self.reporting():
            self.client.search_experiments(max_results=1)

    def experiment(self) -> str:
        """Return the id of the experiment of all models' runs, which is made where it is not there yet."""
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found:
            return str(found.experiment_id)
        return str(self.client.create_experiment(EXPERIMENT, artifact_location=self._artifacts or None))

    def aliases(self, name: str) -> dict[str, int] | None:
        """Return a model's versions by alias, or None if the registry has no such model."""
        with self.reporting():
            if not self.client.search_registered_models(f"name = '{name}'"):
                return None
            named = self.client.get_registered_model(name).aliases
            return {alias: int(version) for alias, version in named.items()}

    def claim(self, name: str, *, is_foundation: bool) -> None:
        """Make a registered model, or check that the one of this name is of the same kind.

        Raises: ConfigError if it is of the other kind, such as another run's.
        """
        with self.reporting():
            models = self.client.search_registered_models(f"name = '{name}'")
            if not models:
                self.client.create_registered_model(name, tags={KIND_TAG: FOUNDATION} if is_foundation else {})
        if models and (models[0].tags.get(KIND_TAG) == FOUNDATION) != is_foundation:
            found, wanted = ("vertical", "foundation") if is_foundation else ("foundation", "vertical")
            raise ConfigError(
                f"the registry at {self.place} has {name!r} as a {found} model, so no {wanted} model can have this "
                "name; give the run's model another one"
            )

    def version(self, name: str, version: int) -> ModelVersion:
        """Return a model's version."""
        with self.reporting(missing=f"the registry has no version {version} of model {name!r}"):
            return self.client.get_model_version(name, str(version))

    def resolve(self, uri: str) -> ModelVersion:
        """Return the version that `models:/NAME@ALIAS` names now, or `models:/NAME/VERSION`.

        Raises: ConfigError if `uri` is not of that form, or names an alias of a foundation model, which has none.
        """
        found = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
        if not found:
            raise ConfigError(f"{uri!r} names no model; expected models:/NAME@ALIAS or models:/NAME/VERSION")
        name, alias, number = found.groups()
        if number:
            return self.version(name, int(number))
        try:
            with self.reporting(missing=f"the registry has no model {name!r} with alias {alias!r}"):
                version: ModelVersion = self.client.get_model_version_by_alias(name, alias)
        except StorageError as error:
            with self.reporting():
                models = self.client.search_registered_models(f"name = '{name}'")
            if any(model.tags.get(KIND_TAG) == FOUNDATION for model in models):
                raise never_served(name) from error
            raise
        return version

    def bundle_of(self, version: ModelVersion) -> Ref:
        """Return the registry's own copy of a version's bundle.

        Raises: ConfigError if it is a foundation model's, which has none.
        """
        if is_foundation(version):
            raise never_served(version.name)
        if DIGEST_TAG not in version.tags:
            raise StorageError(
                f"{version.name!r} version {version.version} has no tag {DIGEST_TAG!r}; register its bundle again"
            )
        with self.reporting():
            source = self.client.get_model_version_download_uri(version.name, version.version)
        return Ref(uri=source, digest=version.tags[DIGEST_TAG])

    def named_bundle_ids(self, name: str) -> set[str] | None:
        """Return the ids of the bundles that a model's aliases name, or None if the registry has no such model."""
        aliases = self.aliases(name)
        if aliases is None:
            return None
        found = [self.version(name, version) for version in set(aliases.values())]
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
                    artifact_uri=ref.uri, dst_path=scratch, tracking_uri=self.uri
                )
            except (mlflow.exceptions.MlflowException, OSError) as error:
                raise StorageError(f"{ref.uri}: cannot be fetched from the registry: {error}") from error
            with reading(Ref(uri=copy, digest=ref.digest)) as folder:
                yield folder


def is_foundation(version: ModelVersion) -> bool:
    """Return whether a version is a foundation model's."""
    return bool(version.tags.get(KIND_TAG) == FOUNDATION)


def never_served(name: str) -> ConfigError:
    """Return the error of one who wants to serve or promote a foundation model."""
    return ConfigError(
        f"{name!r} is a foundation model: it teaches vertical models, and has no bundle to score, serve or promote; "
        f"name a vertical model, or see `exfm lineage models:/{name}/VERSION`"
    )
