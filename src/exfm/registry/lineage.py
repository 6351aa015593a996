"""From an answer to its labels: which version, bundle and states it came from, and what these were made from."""

import re

from mlflow.entities.model_registry import ModelVersion

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.stores import join
from exfm.das.config import DasConfig
from exfm.das.lineage import DIGEST_SHOWN, Origin, has_state, origin_of_state
from exfm.das.log_tables import Das
from exfm.errors import ConfigError
from exfm.registry.foundations import manifest_of
from exfm.registry.log_run import ROOT_TAG
from exfm.registry.mlflow_registry import ID_TAG, PLACE_TAG, STATE_TAG, Registry, is_foundation
from exfm.schema import Schema

MIN_ID_DIGITS = 8
"""Of a bundle's id; fewer could name several bundles."""


def lineage_of(named: str, *, root: str) -> Origin:
    """Return what a registered version was made from.

    `named` is `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or the first digits of a bundle's id. Its state is looked
    for in the tables below the root where the version was made, and if they lack it, because they moved, below `root`.

    Raises: ConfigError if it names no version, or several bundles; StorageError if the registry or a table cannot be
    read; DataError if the tables lack the state.
    """
    registry = Registry.at(root, create=False)
    version = registry.resolve(named) if named.startswith("models:/") else _by_id(registry, named)
    if is_foundation(version):
        return _of_foundation(registry, version, root=root)
    with registry.fetching(registry.bundle_of(version)) as folder:
        manifest = BundleManifest.read(folder, verify=False)  # fetching has
    aliases = [name for name, of in (registry.aliases(version.name) or {}).items() if of == int(version.version)]
    is_called = f" ({', '.join(sorted(aliases))})" if aliases else ""
    text = (
        f"{version.name} version {version.version}{is_called}: bundle {manifest.bundle_id[:DIGEST_SHOWN]}, commit "
        f"{version.tags.get('git_commit', 'unknown')[:DIGEST_SHOWN]}"
    )
    made_below = _root(version, manifest, otherwise=root)
    return Origin(text, (_of_state(manifest.lineage["vm_snapshot"], manifest.feature_schema, root, made_below),))


def _of_foundation(registry: Registry, version: ModelVersion, *, root: str) -> Origin:
    commit = version.tags["git_commit"][:DIGEST_SHOWN]
    text = f"{version.name} version {version.version}: foundation model, commit {commit}"
    schema = manifest_of(registry, version).feature_schema
    return Origin(text, (_of_state(version.tags[STATE_TAG], schema, root, version.tags[ROOT_TAG]),))


def _of_state(state: str, schema: Schema, root: str, made_below: str) -> Origin:
    # `root` comes last: another run with the same settings has states of the same names.
    return origin_of_state(_das(schema, made_below if has_state(made_below, state) else root), state)


def _by_id(registry: Registry, digits: str) -> ModelVersion:
    if not re.fullmatch(rf"[0-9a-f]{{{MIN_ID_DIGITS},64}}", digits):
        raise ConfigError(
            f"{digits!r} is none of models:/NAME@ALIAS, models:/NAME/VERSION, and {MIN_ID_DIGITS} or more digits of a "
            "bundle's id, which answers have as model_version"
        )
    with registry.reporting():
        found = registry.client.search_model_versions(f"tags.{ID_TAG} LIKE '{digits}%'")
    ids = {version.tags[ID_TAG] for version in found}
    if len(ids) != 1:
        raise ConfigError(
            f"{len(ids)} bundles in the registry at {registry.place} have an id that begins with {digits}; name more "
            "digits, or another registry"
        )
    newest: ModelVersion = max(found, key=lambda version: int(version.version))
    return newest


def _root(version: ModelVersion, manifest: BundleManifest, *, otherwise: str) -> str:
    """Return the root below which a bundle was made."""
    place: str = version.tags.get(PLACE_TAG, "")
    below = join("", "bundle", manifest.name, manifest.bundle_id)
    return place.removesuffix(below) if place.endswith(below) else otherwise


def _das(schema: Schema, root: str) -> Das:
    """Return the tables of a log, which know how long their windows are."""
    das = Das(root=root, schema=schema, window_length=1, config=DasConfig())
    length = das.arrivals().state().revision("window_length") // das.ticks(1)
    return Das(root=root, schema=schema, window_length=max(1, length), config=DasConfig())
