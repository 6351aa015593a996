"""The screen of a run: a line for each step that is done, and the progress of the current one."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOBase
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from exfm.errors import StageError, StorageError
from exfm_components import progress
from exfm_components.progress import parse

LOG_INTERVAL_S = 30.0
"""Where the output is not a terminal: seconds between two lines about a stage's progress, at least."""

MEMORY_S = 3600.0
"""Seconds whose windows the time left is estimated from: the last ones."""


class Screen(TextIOBase):
    """Takes the output of steps: writes it to a log, and shows only the steps' progress."""

    def __init__(self, log: TextIO, console: Console, *, interval_s: float = LOG_INTERVAL_S) -> None:
        self._log, self._console, self._interval_s = log, console, interval_s
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            _HowFar(),
            console=console,
            transient=True,
            disable=not console.is_interactive,
            speed_estimate_period=MEMORY_S,
        )
        self._task = self._bar.add_task("starting", total=None)
        self._line = ""
        self._started_s = self._reported_s = time.monotonic()
        self._failed: progress.Progress | None = None
        self.stage = ""
        """The current one, or the last one; empty before the first."""
        self.finished: list[str] = []
        """Stages that are done, in order."""

    def write(self, text: str) -> int:
        """Take a part of the steps' output."""
        self._log.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if found := parse(line):
                self._show(found)
        return len(text)

    def failure(self, log: Path) -> StageError:
        """Return the error that the failed step ended with."""
        if self._failed is None:
            return StageError(f"stage {self.stage!r} failed; its output is in {log}")
        return self._failed.error

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw the current step on a terminal, until the block ends."""
        with self._bar:
            yield

    def _show(self, found: progress.Progress) -> None:
        match found.event:
            case "started":
                self.stage, self._started_s = found.stage, time.monotonic()
                self._reported_s = self._started_s
                self._bar.remove_task(self._task)
                self._task = self._bar.add_task(found.stage, total=None)
            case "under way" if found.walked:
                num_done, num_windows = found.walked
                self._bar.update(self._task, completed=num_done, total=num_windows)
                self._report()
            case "under way":
                self._bar.update(self._task, description=f"{found.stage}: {found.text}")
            case "failed":
                self._failed = found
            case "done":
                self.finished.append(found.stage)
                seconds = time.monotonic() - self._started_s
                self._console.print(
                    f"[green]✓[/] {found.stage:<22} {seconds:5.1f} s  [dim]{found.text}[/]",
                    highlight=False,
                    soft_wrap=True,
                )

    def _report(self) -> None:
        """Print the stage's progress, where nothing is drawn and the last such line is old enough."""
        now_s = time.monotonic()
        if self._console.is_interactive or now_s - self._reported_s < self._interval_s:
            return
        self._reported_s = now_s
        [task] = self._bar.tasks
        self._console.print(f"  {self.stage}: {_how_far(task)}", highlight=False, soft_wrap=True)


class _HowFar(ProgressColumn):
    """Windows done of all and the time that is left; empty for a stage without windows."""

    def render(self, task: Task) -> Text:
        """Return the column's text."""
        return Text(_how_far(task) if task.total is not None else "")


def _how_far(task: Task) -> str:
    left_s = int(task.time_remaining or 0)
    eta = f", about {left_s // 60} min {left_s % 60:02d} s left" if left_s else ""
    return f"{int(task.completed)} of {int(task.total or 0)} windows{eta}"


@contextmanager
def screen_on(log: Path) -> Iterator[Screen]:
    """Yield a screen on stdout that writes what it takes to a file.

    Raises: StorageError if the file cannot be written.
    """
    with _opened(log) as file:
        screen = Screen(file, Console(file=sys.stdout))
        with screen.drawn():
            yield screen


def _opened(log: Path) -> TextIO:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("w", encoding="utf-8", buffering=1)  # each line is there when it is printed
    except OSError as error:
        raise StorageError(
            f"{log}: cannot be written ({error.strerror}); let this user write there, or name another root"
        ) from error
