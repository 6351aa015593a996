"""A reference to a stage's output as the content of a KFP artifact."""

from pathlib import Path

from exfm.artifact.manifest import read_json, write_json
from exfm.artifact.storage import Ref


def write_ref(ref: Ref, path: str) -> None:
    """Write a reference into an artifact's file."""
    write_json(Path(path), ref.to_dict())


def read_ref(path: str) -> Ref:
    """Return the reference in an artifact's file."""
    return Ref.parse(read_json(Path(path)), source=path)
