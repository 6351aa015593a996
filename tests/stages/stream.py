"""What the tests of the stages share."""

from dataclasses import dataclass
from pathlib import Path

from exfm.artifact.storage import Ref
from exfm.schema import Schema


@dataclass(frozen=True)
class Stream:
    """A small synthetic log that went through the first stages."""

    root: Path
    schema: Schema
    events: Ref
    labels: Ref

    def folder(self, ref: Ref) -> Path:
        return Path(ref.uri)
