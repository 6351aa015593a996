"""Files that users bring, which no manifest lists: on this machine, or in a store."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import fsspec

from exfm.artifact.storage import is_local, join
from exfm.artifact.stores import entries, filesystem_of, telling
from exfm.errors import DataError, StorageError


def locate(uri: str) -> str:
    """Return the URI of files that are there: of one file or a glob as it is, of a folder with a slash at its end.

    Raises: StorageError if no file is there, or the store does not say.
    """
    with telling(uri):
        filesystem, path = filesystem_of(uri)
        is_glob = any(mark in path for mark in "*?[")
        try:
            found = next(iter(filesystem.glob(path)), "") if is_glob else _first_file(filesystem, path)
        except FileNotFoundError:  # not even the bucket
            found = ""
    if not found:
        raise StorageError(f"{uri}: no file is there; name a file, a folder of files, or a glob that matches some")
    return uri if is_glob or found == path else join(uri, "")


def _first_file(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """Return a file in a folder, at any depth, or the path itself where it is one; of a large log little is listed."""
    folders = [path]
    while folders:
        for item in filesystem.ls(folders.pop(), detail=True):
            name: str = item["name"]
            if item["type"] == "directory":
                folders.append(name)
            elif not name.endswith("/"):  # what S3 consoles make of an empty folder
                return name
    return ""


def open_files(uri: str) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the name and the content of what `locate` finds: a file, those of a glob, or of a folder; no empty ones.

    Raises: StorageError if the store does not answer.
    """
    with telling(uri):
        filesystem, path = filesystem_of(uri)
        is_glob = any(mark in path for mark in "*?[")
        found = filesystem.glob(path, detail=True) if is_glob else filesystem.find(path, detail=True)
        for name in sorted(name for name, about in found.items() if about["size"]):
            with filesystem.open(name, "rb") as file:
                yield name if is_local(uri) else filesystem.unstrip_protocol(name), file


def names_in(uri: str) -> list[str]:
    """Return the names of what lies directly in a folder, sorted; none if it is not there.

    Raises: StorageError if the store does not say.
    """
    return sorted(item["name"] for item in entries(uri))


@contextmanager
def local_copy(uri: str, names: Iterable[str]) -> Iterator[Path]:
    """Yield a local folder with these files of a folder: itself, or a copy that vanishes when the block ends.

    A DataError of the block that names the copy then names the folder instead.

    Raises: StorageError if the store has one of them not, or does not answer.
    """
    if is_local(uri):
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
        with telling(uri):
            filesystem, path = filesystem_of(uri)
            for name in names:
                filesystem.get_file(f"{path}/{name}", str(Path(scratch) / name))
        try:
            yield Path(scratch)
        except DataError as error:  # it names the copy, which is gone when somebody reads this
            raise DataError(str(error).replace(scratch, uri.rstrip("/"))) from error
