"""Lines that a component prints, one for each event: for a step's log and for `exfm run`."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

from exfm.errors import ExfmError, StageError

_LINE = re.compile(r"exfm \| (started|under way|done|failed)(?: (\d+))? \| ([^|]*) \| (.*)")

_WALKED = re.compile(r"(\d+) of (\d+) windows")

Event = Literal["started", "under way", "done", "failed"]


@dataclass(frozen=True)
class Progress:
    """An event of a stage."""

    event: Event
    stage: str
    text: str = ""
    exit_code: int = 0
    """Exit code of a failed step; 0: it did not fail."""

    @property
    def error(self) -> StageError:
        """Return the error that a failed step ended with."""
        return StageError(self.text, exit_code=self.exit_code)

    @property
    def walked(self) -> tuple[int, int] | None:
        """Return how many windows are done and how many there are; None if the event is about something else."""
        found = _WALKED.fullmatch(self.text) if self.event == "under way" else None
        return (int(found[1]), int(found[2])) if found else None


class Stage:
    """A running stage."""

    def __init__(self, name: str) -> None:
        self._name = name

    def walked(self, num_done: int, num_windows: int) -> None:
        """Report how many windows are done, and how many there are."""
        self.report(f"{num_done} of {num_windows} windows")

    def report(self, text: str) -> None:
        """Report what the stage is doing."""
        _print(Progress(event="under way", stage=self._name, text=text))

    def done(self, text: str) -> None:
        """Report the stage's result."""
        _print(Progress(event="done", stage=self._name, text=text))


@contextmanager
def running(name: str) -> Iterator[Stage]:
    """Report that a stage has started and, if it ends with an ExfmError, that error.

    Meanwhile libraries log warnings only, because KFP's executor sets their loggers to log everything.
    """
    _print(Progress(event="started", stage=name))
    level = logging.root.level
    logging.root.setLevel(max(level, logging.WARNING))
    try:
        yield Stage(name)
    except ExfmError as error:
        _print(Progress(event="failed", stage=name, text=str(error), exit_code=error.exit_code))
        raise
    finally:
        logging.root.setLevel(level)


def parse(line: str) -> Progress | None:
    """Return the progress in a line of a component's output, or None if the line is something else."""
    found = _LINE.search(line)
    if not found:
        return None
    event, exit_code, stage, text = found.groups()
    return Progress(cast(Event, event), stage, _unescaped(text), int(exit_code or 0))


def _print(progress: Progress) -> None:
    code = f" {progress.exit_code}" if progress.exit_code else ""
    print(f"exfm | {progress.event}{code} | {progress.stage} | {_escaped(progress.text)}", flush=True)


def _escaped(text: str) -> str:
    """Return a text on one line."""
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)
