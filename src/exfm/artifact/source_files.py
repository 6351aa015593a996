"""Files that users bring, which no manifest lists: on this machine, or in a store."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

import fsspec

from exfm.artifact.stores import is_local, join, reaching
from exfm.errors import StorageError


def locate(uri: str) -> str:
    """Return the URI of files that are there: of one file or a glob as it is, of a folder with a slash at its end.

    Raises: StorageError if no file is there, or the store does not answer.
    """
    with reaching(uri) as (filesystem, path):
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
            elif not name.endswith("/"):  # S3 consoles make an empty folder of such a file
                return name
    return ""


@dataclass(frozen=True)
class FoundFile:
    """A file that a user brought."""

    name: str
    """Below the folder, or below the last folder of a glob without wildcard; of a single file its own name."""
    uri: str
    size_bytes: int
    written_s: float
    """When it was written last, as Unix time, by the clock of its store."""


def list_files(uri: str) -> list[FoundFile]:
    """Return what `locate` finds: a file, those of a glob, or of a folder, sorted by name; no empty or hidden ones.

    A file is hidden if its name begins with a dot: one that is still written.

    Raises: StorageError if the store does not answer.
    """
    with reaching(uri) as (filesystem, path):
        is_glob = any(mark in path for mark in "*?[")
        found = filesystem.glob(path, detail=True) if is_glob else filesystem.find(path, detail=True)
        base = path.rstrip("/")
        if is_glob:
            base = re.split(r"[*?\[]", path)[0].rpartition("/")[0]
        elif base in found:
            base = base.rpartition("/")[0]
        return sorted(
            (
                FoundFile(
                    name=name.removeprefix(base).lstrip("/"),
                    uri=name if is_local(uri) else filesystem.unstrip_protocol(name),
                    size_bytes=about["size"],
                    written_s=_written_s(about),
                )
                for name, about in found.items()
                if about["type"] == "file" and about["size"] and not name.rpartition("/")[2].startswith(".")
            ),
            key=lambda file: file.name,
        )


def _written_s(about: Mapping[str, Any]) -> float:
    """Return when a file was written, as fsspec describes it; 0: its store does not say."""
    in_s3: datetime | None = about.get("LastModified")
    return float(about.get("mtime", 0)) if in_s3 is None else in_s3.timestamp()


def open_files(uri: str) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the name and the content of what `locate` finds: a file, those of a glob, or of a folder; no empty ones.

    Raises: StorageError if the store does not answer.
    """
    with reaching(uri) as (filesystem, path):
        is_glob = any(mark in path for mark in "*?[")
        found = filesystem.glob(path, detail=True) if is_glob else filesystem.find(path, detail=True)
        for name in sorted(name for name, about in found.items() if about["size"]):
            with filesystem.open(name, "rb") as file:
                yield name if is_local(uri) else filesystem.unstrip_protocol(name), file
