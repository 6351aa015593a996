"""The part of a bundle that one server needs, verified: a shard never reads another shard's tables."""

from pathlib import Path

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.digests import verify_folder
from exfm.errors import BundleError, StorageError


def read_part(folder: Path, file: str) -> BundleManifest:
    """Return a bundle's manifest after one file's digest, and the manifest's own, were checked.

    Raises: BundleError, which names what is missing or damaged.
    """
    manifest = BundleManifest.read(folder, verify=False)
    if file not in manifest.files:
        raise BundleError(f"{folder}: the manifest lists no {file}; export the bundle again")
    try:
        verify_folder(folder, {file: manifest.files[file]})
    except StorageError as error:
        raise BundleError(str(error)) from error
    return manifest
