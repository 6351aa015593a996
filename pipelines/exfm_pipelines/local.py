"""Pipelines on this machine: KFP's own local runner, each step a process, one line a step on the screen."""

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import TextIOBase
from pathlib import Path
from typing import TextIO

from kfp import local
from rich.console import Console
from rich.status import Status

from exfm.artifact.storage import is_local, remove_file
from exfm.errors import StageError, StorageError
from exfm_components import layout
from exfm_components.progress import Progress, parse
from exfm_components.run_config import RunConfig
from exfm_components.stages import IMAGE
from exfm_pipelines.teach_distil_serve import teach_distil_serve

LOG = "pipeline.log"


def run_locally(config: RunConfig) -> None:
    """Run the whole pipeline, with all that its steps print in `<root>/pipeline.log` (remote root: `./pipeline.log`).

    Raises: what RunConfig.check raises; StorageError if nothing can be written there; StageError, with the step's
    own message and exit code.
    """
    config.require_registry()
    config.check()
    for file in layout.results(config.root):  # an earlier run's results do not belong to these events
        remove_file(file)
    log = (Path(config.root) if is_local(config.root) else Path.cwd()) / LOG
    with (
        tempfile.TemporaryDirectory(prefix="exfm-") as scratch,
        _screen(log) as screen,
        warnings.catch_warnings(),
    ):
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=scratch, raise_on_error=True)
        # It is about the image's name, which only a cluster uses.
        warnings.filterwarnings("ignore", message="You may be attemping to run a task", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message=".*have no effect in the current local runner", category=UserWarning)
        try:
            # More than one model at a time would only share this machine's cores.
            platform = config.platform.model_copy(update={"max_parallel": 1})
            teach_distil_serve(config.model_copy(update={"platform": platform}), image=IMAGE)()
        except RuntimeError as error:  # KFP's word for a failed step, whose own error went to its output
            raise screen.failure(log) from error


def run_step(step: Callable[[RunConfig], object], config: RunConfig) -> None:
    """Run one step in this process, with its progress on the screen, and then the page that it returns, if it does.

    Raises: whatever the step raises.
    """
    with _screen(Path(os.devnull)):
        page = step(config)
    if isinstance(page, str):
        print(f"\n{page}", end="")


class _Screen(TextIOBase):
    """Takes KFP's output: all of it to the log, and of it only the steps' own progress to the screen."""

    def __init__(self, log: TextIO, console: Console, status: Status) -> None:
        self._log, self._console, self._status = log, console, status
        self._line = ""
        self._stage, self._started = "", 0.0
        self._failed: Progress | None = None

    def write(self, text: str) -> int:
        self._log.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if progress := parse(line):
                self._show(progress)
        return len(text)

    def failure(self, log: Path) -> StageError:
        """Return the error that the failed step ended with."""
        if self._failed is None:
            return StageError(f"stage {self._stage!r} failed; what it printed is in {log}")
        return StageError(self._failed.text, exit_code=self._failed.exit_code)

    def _show(self, progress: Progress) -> None:
        match progress.event:
            case "started":
                self._stage, self._started = progress.stage, time.monotonic()
                self._status.update(progress.stage)
            case "under way":
                self._status.update(f"{progress.stage}: {progress.text}")
            case "failed":
                self._failed = progress
            case "done":
                seconds = time.monotonic() - self._started
                self._console.print(
                    f"[green]✓[/] {progress.stage:<22} {seconds:5.1f} s  [dim]{progress.text}[/]",
                    highlight=False,
                    soft_wrap=True,
                )


@contextmanager
def _screen(log: Path) -> Iterator[_Screen]:
    console = Console(file=sys.stdout)
    with _opened(log) as file, console.status("starting") as status:
        screen = _Screen(file, console, status)
        with redirect_stdout(screen):
            yield screen


def _opened(log: Path) -> TextIO:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("w", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"{log}: cannot be written ({error.strerror}); let this user write there, or name another root"
        ) from error
