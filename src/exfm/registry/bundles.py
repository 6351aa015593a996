"""A bundle wherever it is: a folder, a remote store, or a version in the registry."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exfm.artifact.bundle import BundleManifest, find_bundle, read_manifest
from exfm.artifact.storage import Ref, reading, ref_to
from exfm.artifact.stores import is_local
from exfm.errors import ConfigError


@dataclass(frozen=True)
class LocatedBundle:
    """A bundle's manifest, and where the bundle is."""

    manifest: BundleManifest
    ref: Ref
    version: int
    """The registry's version; 0 if the bundle is not from a registry."""


@contextmanager
def open_bundle(uri: str, *, root: str) -> Iterator[Path]:
    """Yield a local folder with the bundle at `uri`.

    `uri` may be the folder of a model's bundles, whose newest one is yielded, or `models:/NAME@ALIAS` or
    `models:/NAME/VERSION` in the registry of `root`.

    Raises: StorageError if it does not exist; ConfigError if `models:/...` is malformed or names a foundation model.
    """
    if uri.startswith("models:/"):
        from exfm.registry.mlflow_registry import Registry  # MLflow takes seconds to import

        registry = Registry.at(root, create=False)
        with registry.fetching(registry.bundle_of(registry.resolve(uri))) as folder:
            yield folder
    elif is_local(uri):
        yield Path(find_bundle(uri))
    else:
        with reading(ref_to(find_bundle(uri))) as folder:
            yield folder


def locate_bundle(uri: str, *, root: str, digest: str = "") -> LocatedBundle:
    """Return the manifest of the bundle at `uri`, as `open_bundle` takes it; its tables are not read.

    `digest`, where given, is the SHA-256 that its manifest.json must have.

    Raises: BundleError if it has another; StorageError if it does not exist; ConfigError if only pods can read it.
    """
    if uri.startswith("models:/"):
        from exfm.registry.mlflow_registry import PLACE_TAG, Registry  # MLflow takes seconds to import

        registry = Registry.at(root, create=False)
        found = registry.resolve(uri)  # once: an alias may move
        ref, version = registry.bundle_of(found), int(found.version)
        if not is_local(ref.uri) and not ref.uri.startswith("s3://"):  # behind a tracking server
            with registry.fetching(ref) as folder:
                manifest = read_manifest(Ref(uri=str(folder), digest=digest or ref.digest))
            place: str = found.tags.get(PLACE_TAG, "")
            uri = place if place.startswith("s3://") else ref.uri  # pods cannot read from that server
            return LocatedBundle(manifest=manifest, ref=Ref(uri=uri, digest=digest or ref.digest), version=version)
    elif uri.startswith("pvc://"):
        raise ConfigError(f"{uri} can be read by pods only; name a copy of the bundle, and --serve-from {uri}")
    else:
        ref, version = ref_to(find_bundle(uri)), 0
    ref = Ref(uri=ref.uri, digest=digest or ref.digest)
    return LocatedBundle(manifest=read_manifest(ref), ref=ref, version=version)
