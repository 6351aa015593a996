"""A store of stage outputs: folders under a root that is a local path or any fsspec URL, such as s3://bucket/prefix.

A stage writes into a local folder that becomes visible as a whole, or not at all; it reads local folders. For a
remote root the folder is uploaded with its manifest last, or downloaded, so no stage knows where its files live.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import fsspec
from pydantic import StringConstraints

from exfm.artifact.digests import FileDigest, Sha256, digest_of_file, verify_folder
from exfm.config import Config
from exfm.errors import StorageError

MANIFEST = "manifest.json"
"""The file whose presence makes a folder complete: written last, and digested by whoever refers to the folder."""


class Ref(Config):
    """A finished folder: where it is and what its manifest must be."""

    uri: Annotated[str, StringConstraints(min_length=1)]
    digest: Sha256
    """SHA-256 of the folder's manifest.json, which holds the digests of all its files."""


def is_local(uri: str) -> bool:
    """Return whether a URI is a path on this machine."""
    return re.match(r"[a-z][a-z0-9+.-]*:/", uri) is None


def remove_file(uri: str) -> None:
    """Remove one file, if it is there."""
    if is_local(uri):
        Path(uri).unlink(missing_ok=True)
        return
    filesystem, path = _remote(uri)
    if filesystem.exists(path):
        filesystem.rm_file(path)


def resolve_path(uri: str, *, base: Path) -> str:
    """Return a URI as it is, or a local path made absolute; a relative one starts at `base`."""
    return str((base / uri).resolve()) if is_local(uri) else uri


def join(uri: str, *parts: str) -> str:
    """Return a URI below another one."""
    return "/".join([uri.rstrip("/"), *parts])


@contextmanager
def writing(uri: str) -> Iterator[Path]:
    """Yield an empty local folder that takes the place of `uri` when the block ends, and vanishes if it fails.

    Raises: StorageError if `uri` cannot be written.
    """
    with _telling(uri):
        if is_local(uri):
            target = Path(uri)
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        else:
            scratch = Path(tempfile.mkdtemp(prefix="exfm-"))
    try:
        folder = scratch / "new"
        folder.mkdir()
        yield folder
        with _telling(uri):
            if is_local(uri):
                _swap(folder, target, scratch)
            else:
                _upload(folder, uri)
    finally:
        shutil.rmtree(scratch)


@contextmanager
def reading(ref: Ref) -> Iterator[Path]:
    """Yield a local folder with the files of `ref`, each checked against its digest.

    Hashing costs about a second a GB; it is what makes a reference mean one content.

    Raises: StorageError if it is missing, its manifest is another one than `ref` says, or a file is damaged.
    """
    if is_local(ref.uri):
        folder = Path(ref.uri)
        _check(folder, ref)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
        folder = Path(scratch) / "copy"
        with _telling(ref.uri):
            filesystem, path = _remote(ref.uri)
            if not filesystem.exists(f"{path}/{MANIFEST}"):
                raise _missing(ref.uri)
            filesystem.get(f"{path}/", str(folder), recursive=True)
        _check(folder, ref)
        yield folder


def ref_to(uri: str) -> Ref:
    """Return the reference to a finished folder.

    Raises: StorageError if there is none.
    """
    with _telling(uri):
        filesystem, path = _remote(join(uri, MANIFEST))
        if not filesystem.exists(path):
            raise _missing(uri)
    return Ref(uri=uri, digest=hashlib.sha256(read_file(join(uri, MANIFEST))).hexdigest())


def write_file(uri: str, content: bytes) -> None:
    """Put one file at `uri`, whole.

    Raises: StorageError if it cannot be written.
    """
    with _telling(uri):
        if is_local(uri):
            target = Path(uri)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.partial")
            partial.write_bytes(content)
            partial.replace(target)
        else:
            filesystem, path = _remote(uri)
            filesystem.pipe_file(path, content)


def read_file(uri: str) -> bytes:
    """Return the content of one file.

    Raises: StorageError if there is none, or it cannot be read.
    """
    with _telling(uri):
        filesystem, path = _remote(uri)
        content: bytes = filesystem.cat_file(path)
    return content


def _swap(folder: Path, target: Path, scratch: Path) -> None:
    folder.chmod(0o755)  # mkdtemp's is private
    old = scratch / "old"
    if target.exists():
        target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        if old.exists():  # scratch is removed next: the old output must not go with it
            old.rename(target)
        raise


def _upload(folder: Path, uri: str) -> None:
    filesystem, path = _remote(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)
    files = sorted((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f == folder / MANIFEST)
    for file in files:  # the manifest last: until it is there the folder does not count as finished
        filesystem.put_file(str(file), f"{path}/{file.relative_to(folder).as_posix()}")


@contextmanager
def _telling(uri: str) -> Iterator[None]:
    """Turn what a file system or an object store raises into a StorageError that names the URI."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: no such file; run the stage that writes it") from error
    except _store_errors() as error:
        raise StorageError(f"{uri}: {error}; check the path, the rights and the credentials") from error


def _store_errors() -> tuple[type[Exception], ...]:
    try:
        from botocore.exceptions import BotoCoreError  # an S3 client's own errors are no OSErrors
    except ImportError:
        return (OSError,)
    return (OSError, BotoCoreError)


def _remote(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.invalidate_cache()  # of listings: another process may have written since
    return filesystem, path


def _check(folder: Path, ref: Ref) -> None:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise _missing(ref.uri)
    found = digest_of_file(manifest).sha256
    if found != ref.digest:
        raise StorageError(
            f"{ref.uri}: {MANIFEST} has SHA-256 {found}, expected {ref.digest}; "
            "the folder was written again since: run the stages after it again"
        )
    files = json.loads(manifest.read_bytes()).get("files", {})
    verify_folder(folder, {name: FileDigest.parse(digest, source=ref.uri) for name, digest in files.items()})


def _missing(uri: str) -> StorageError:
    return StorageError(f"{uri}: no {MANIFEST} there; run the stage that writes it")
