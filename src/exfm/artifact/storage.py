"""Finished folders of stages: what refers to one, and how it is read.

A root is a local path or any fsspec URL, such as s3://bucket/prefix. A stage reads local folders: those of a remote
root are downloaded, so no stage knows where its files are.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self

from pydantic import ConfigDict, StringConstraints, model_validator

from exfm.artifact.digests import FileDigest, Sha256, verify_folder
from exfm.artifact.stores import is_local, join, local_copy, reaching
from exfm.config import Config
from exfm.errors import ConfigError, StorageError

MANIFEST = "manifest.json"
"""The file whose presence makes a folder complete: written last, and digested by whoever refers to the folder."""


class Ref(Config):
    """A finished folder: where it is and what its manifest must be."""

    uri: Annotated[str, StringConstraints(min_length=1)]
    digest: Sha256
    """SHA-256 of the folder's manifest.json, which holds the digests of all its files."""


def ref_to(uri: str) -> Ref:
    """Return the reference to a finished folder.

    Raises: StorageError if there is none.
    """
    return Ref(uri=uri, digest=hashlib.sha256(read_manifest(uri)).hexdigest())


@contextmanager
def reading(ref: Ref) -> Iterator[Path]:
    """Yield a local folder with the files of `ref`, each checked against its digest.

    Of a remote folder those files are copied that its manifest lists, and no others. Hashing takes about a second a GB;
    it is what makes a reference mean one content.

    Raises: StorageError if it is missing, its manifest is another one than `ref` says, or a file is damaged.
    """
    manifest = read_manifest(ref.uri)
    found = hashlib.sha256(manifest).hexdigest()
    if found != ref.digest:
        raise StorageError(
            f"{ref.uri}: {MANIFEST} has SHA-256 {found}, expected {ref.digest}; "
            "the folder was written again since: run the stages after it again"
        )
    files = files_of(manifest, source=join(ref.uri, MANIFEST))
    with local_copy(ref.uri, files) as folder:
        if not is_local(ref.uri):
            (folder / MANIFEST).write_bytes(manifest)
        verify_folder(folder, files)
        yield folder


def read_manifest(uri: str) -> bytes:
    """Return the manifest of a finished folder.

    Raises: StorageError if there is none.
    """
    with reaching(join(uri, MANIFEST)) as (filesystem, path):
        if not filesystem.exists(path):
            raise StorageError(f"{uri}: no {MANIFEST} there; run the stage that writes it")
        manifest: bytes = filesystem.cat_file(path)
    return manifest


def files_of(manifest: bytes, *, source: str) -> dict[str, FileDigest]:
    """Return the files that a manifest lists; `source` names it in errors.

    Raises: StorageError if it is that of no stage and no bundle.
    """
    try:
        return _Listing.parse(json.loads(manifest), source=source).files
    except ConfigError as error:
        raise StorageError(f"{error}; no stage wrote this: name another folder") from error
    except ValueError as error:
        raise StorageError(f"{source}: not JSON: {error}; no stage wrote this: name another folder") from error


class _Listing(Config):
    """What the manifests of all stages and bundles have."""

    model_config = ConfigDict(extra="ignore")

    files: dict[str, FileDigest]

    @model_validator(mode="after")
    def _check(self) -> Self:
        outside = [name for name in self.files if name.startswith("/") or ".." in name.split("/")]
        if outside:
            raise ValueError(f"file {outside[0]!r} lies outside the folder")
        return self
