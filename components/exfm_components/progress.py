"""Lines that a component prints for whoever runs the pipeline: one protocol for a log viewer and for `exfm run`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

from exfm.errors import ExfmError

PREFIX = "exfm-progress "


@dataclass(frozen=True)
class Progress:
    """Something a stage has to say."""

    event: Literal["started", "under way", "done", "failed"]
    stage: str
    text: str = ""
    exit_code: int = 0
    """Of a failure."""


class Stage:
    """A stage at work."""

    def __init__(self, name: str) -> None:
        self._name = name

    def window(self, index: int) -> None:
        """Say which window was tested."""
        self.say(f"window {index}")

    def say(self, text: str) -> None:
        """Say what is under way."""
        _say(Progress(event="under way", stage=self._name, text=text))

    def done(self, text: str) -> None:
        """Say what came out."""
        _say(Progress(event="done", stage=self._name, text=text))


@contextmanager
def running(name: str) -> Iterator[Stage]:
    """Say that a stage has started and, if it ends with an error of ours, which one."""
    _say(Progress(event="started", stage=name))
    try:
        yield Stage(name)
    except ExfmError as error:
        _say(Progress(event="failed", stage=name, text=str(error), exit_code=error.exit_code))
        raise


def parse(line: str) -> Progress | None:
    """Return the progress in a line of a component's output, or None if the line is something else."""
    _, found, text = line.partition(PREFIX)
    return Progress(**json.loads(text)) if found else None


def _say(progress: Progress) -> None:
    print(PREFIX + json.dumps(asdict(progress)), flush=True)
