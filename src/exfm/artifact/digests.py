"""Digests of files and of JSON values; all are SHA-256 in lower-case hexadecimal."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from exfm.config import Config, like
from exfm.errors import StorageError

Sha256 = Annotated[str, like("[0-9a-f]{64}", "a SHA-256: 64 digits 0 to 9 and a to f")]


class FileDigest(Config):
    """What a file must be."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


def digest_of_file(path: Path) -> FileDigest:
    """Return a file's digest and size."""
    with path.open("rb") as file:
        return FileDigest(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size_bytes=path.stat().st_size)


def digest_of_json(value: Any) -> str:
    """Return the digest of a JSON value's canonical text: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digests_of_folder(folder: Path) -> dict[str, FileDigest]:
    """Return the digest of every file below a folder, by its path relative to it, in order of path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_of_file(path) for path in files}


def verify_folder(folder: Path, files: dict[str, FileDigest]) -> None:
    """Check that a folder holds these files, each as its digest says.

    Raises: StorageError, which names the first file that is missing or differs.
    """
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise StorageError(f"{folder}: {name} is missing; copy the folder again from where it was made")
        try:
            found = digest_of_file(path)
        except OSError as error:
            raise StorageError(f"{folder}: {name} cannot be read ({error.strerror}); let this user read it") from error
        if found != expected:
            raise StorageError(
                f"{folder}: {name} is damaged: expected {expected.size_bytes} B with SHA-256 {expected.sha256}, "
                f"found {found.size_bytes} B with {found.sha256}; copy the folder again from where it was made"
            )
