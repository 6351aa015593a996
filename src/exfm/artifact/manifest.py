"""The manifest of a stage's output folder: its files and the event windows it covers."""

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from exfm.artifact.digests import FileDigest
from exfm.artifact.storage import MANIFEST
from exfm.config import Config
from exfm.errors import ConfigError, StorageError


class Window(Config):
    """A span of event time, [start, end), in the schema's time unit."""

    index: int
    start: int
    end: int

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"window {self.index} ends at {self.end}, which is not after its start {self.start}")
        return self


class Manifest(Config):
    """What every stage's output says of itself; each stage adds its own fields."""

    format_version: Literal[1] = 1
    kind: str
    """The stage's output, such as foundation or vertical."""
    windows: tuple[Window, ...]
    """In order of time."""
    files: dict[str, FileDigest] = {}
    """Every file of the folder but the manifest, by its path."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the manifest in a folder; `storage.reading` has checked the files.

        Raises: StorageError if it is missing, malformed or does not describe the folder.
        """
        path = folder / MANIFEST
        try:
            manifest = cls.parse(cls.without_removed(read_json(path)), source=str(path))
        except ConfigError as error:
            raise StorageError(str(error)) from error
        return manifest


def read_json(path: Path) -> Any:
    """Return the JSON value in a file.

    Raises: StorageError if the file is missing or is not JSON.
    """
    try:
        return parse_json(path.read_bytes(), source=str(path))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error


def parse_json(content: bytes, *, source: str) -> Any:
    """Return the JSON value in a file's content; `source` names the file.

    Raises: StorageError if it is not JSON.
    """
    try:
        return json.loads(content)
    except ValueError as error:
        raise StorageError(f"{source}: not JSON: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value as readable UTF-8 text.

    NaN and infinities are refused: JSON has none, and other readers would choke on them.
    """
    path.write_bytes(json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return a JSON value as readable UTF-8 text; NaN and infinities are refused."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
