"""Stores by URI, and single files in them: this machine's file system, or any that fsspec reaches, such as S3.

Every function that reads or writes raises a StorageError that names the URI if the store does not answer or refuses.
"""

import glob
import re
import secrets
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec

from exfm.errors import DataError, StorageError

_S3_OPTIONS = {"config_kwargs": {"connect_timeout": 2, "retries": {"max_attempts": 2}}}
"""An endpoint that is away is an error within about 10 s; botocore's own defaults wait minutes."""


def is_local(uri: str) -> bool:
    """Return whether a URI is a path on this machine."""
    return re.match(r"[a-z][a-z0-9+.-]*:/", uri) is None


def resolve_path(uri: str, *, base: Path) -> str:
    """Return a URI as it is, or a local path made absolute; a relative one starts at `base`."""
    return str((base / uri).resolve()) if is_local(uri) else uri


def join(uri: str, *parts: str) -> str:
    """Return a URI below another one."""
    return "/".join([uri.rstrip("/"), *parts])


@contextmanager
def reporting(uri: str) -> Iterator[None]:
    """Turn what a file system or an object store raises into a StorageError that names the URI."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageError(f"{uri}: no such file; run the stage that writes it") from error
    except _store_errors() as error:
        raise StorageError(f"{uri}: {error}; check the path, the rights, the credentials and the free space") from error


@contextmanager
def reaching(uri: str) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
    """Yield the file system that a URI lies in, without its cache of listings, and the path there."""
    options: dict[str, Any] = _S3_OPTIONS if uri.startswith("s3://") else {}
    with reporting(uri):
        try:
            filesystem, path = fsspec.core.url_to_fs(uri, **options)
        except (ImportError, ValueError) as error:  # an unknown scheme, or a store whose client is not installed
            raise StorageError(f"{uri}: {error}; name a folder or an s3:// URL") from error
        filesystem.invalidate_cache()  # another process may have written since
        yield filesystem, path


def read_file(uri: str) -> bytes:
    """Return the content of one file, which must be there."""
    with reaching(uri) as (filesystem, path):
        content: bytes = filesystem.cat_file(path)
    return content


def write_file(uri: str, content: bytes) -> None:
    """Put one file at `uri`, whole, however many write it at once.

    What a killed writer of this file left on a disk is removed. In S3, parts of a file over 100 MiB stay invisible,
    until the bucket's rule for incomplete uploads removes them.
    """
    with reaching(uri) as (filesystem, path):
        if is_local(uri):
            _write_local(Path(uri), content)
        else:
            filesystem.pipe_file(path, content)


def unfinished(target: Path) -> list[Path]:
    """Return the files beside `target` that writers of it fill, or left."""
    return list(target.parent.glob(f".{glob.escape(target.name)}.{'?' * 8}.partial"))


def remove_file(uri: str) -> None:
    """Remove one file, if it is there."""
    with reaching(uri) as (filesystem, path):
        if is_local(uri):  # fsspec's `exists` hides errors
            Path(uri).unlink(missing_ok=True)
        elif filesystem.exists(path):
            filesystem.rm_file(path)


def remove_tree(uri: str) -> None:
    """Remove a folder, which must be there, with all that is in it."""
    with reaching(uri) as (filesystem, path):
        filesystem.rm(path, recursive=True)


def exists(uri: str) -> bool:
    """Return whether there is a file or folder."""
    with reaching(uri) as (filesystem, path):
        return bool(filesystem.exists(path))


def modified_s(uri: str) -> float:
    """Return when a file, which must be there, was written last, as Unix time."""
    with reaching(uri) as (filesystem, path):
        written: datetime = filesystem.modified(path)
    return written.timestamp()


def entries(uri: str) -> list[dict[str, Any]]:
    """Return what lies directly in a folder, as fsspec describes it; nothing if the folder is not there."""
    with reaching(uri) as (filesystem, path):
        try:
            found: list[dict[str, Any]] = filesystem.ls(path, detail=True)
        except FileNotFoundError:
            return []
    return [item | {"name": item["name"].rstrip("/").rpartition("/")[2]} for item in found]


def list_folders(uri: str) -> list[str]:
    """Return the names of the folders directly below a URI, sorted, without hidden ones; none if it is not there."""
    names = {item["name"] for item in entries(uri) if item["type"] == "directory"}
    return sorted(name for name in names if not name.startswith("."))


@contextmanager
def local_copy(uri: str, names: Collection[str]) -> Iterator[Path]:
    """Yield a local folder with these files of a folder: itself, or a copy that is removed when the block ends.

    A DataError of the block that names the copy then names the folder instead.
    """
    if is_local(uri):
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
        with reaching(uri) as (filesystem, path):
            filesystem.get([f"{path}/{name}" for name in names], [f"{scratch}/{name}" for name in names])
        try:
            yield Path(scratch)
        except DataError as error:  # it names the copy, which is gone when somebody reads this
            raise DataError(str(error).replace(scratch, uri.rstrip("/"))) from error


def _write_local(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in unfinished(target):
        left.unlink(missing_ok=True)
    while True:
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        try:
            partial.write_bytes(content)
            with suppress(FileNotFoundError):  # another writer took it for a left-over, once: as it began
                partial.replace(target)
                return
        finally:
            partial.unlink(missing_ok=True)


def _store_errors() -> tuple[type[Exception], ...]:
    try:
        from botocore.exceptions import BotoCoreError  # an S3 client's own errors are no OSErrors
    except ImportError:
        return (OSError,)
    return (OSError, BotoCoreError)
