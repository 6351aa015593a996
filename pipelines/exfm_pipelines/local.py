"""Pipelines on this machine: KFP's own local runner, each step a process, one line a step on the screen."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from exfm.artifact.output import discard_unfinished
from exfm.artifact.stores import is_local, remove_file
from exfm.environment import PIPELINE_RUN
from exfm.errors import StoppedError
from exfm_components import layout
from exfm_components.run_config import RunConfig
from exfm_pipelines.screen import Screen, screen_on

LOG = "pipeline.log"

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Each ends a run: Ctrl-C, a process manager's stop, a closed terminal."""

_END_S = 0.2
"""Longest wait for killed processes to be gone. If their new parent does not reap them, they never seem gone."""
_POLL_S = 0.01


def run_locally(config: RunConfig, *, until: str = "") -> None:
    """Do whatever is due, with the output of all steps in `<root>/pipeline.log` (remote root: `./pipeline.log`).

    `until`, a date, says up to where the log is complete. A signal ends all its processes at once. For the main thread.

    Raises: what RunConfig.check raises; StorageError if nothing can be written there; StageError, with the step's own
    message and exit code; StoppedError if a signal came.
    """
    config.require_registry()
    config.check()
    for file in layout.results(config.root):  # an earlier run's results do not belong to these models
        remove_file(file)
    log = (Path(config.root) if is_local(config.root) else Path.cwd()) / LOG
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch, screen_on(log) as screen, _Run(scratch) as run:
        for line in run.lines(json.dumps({"run": config.to_dict(), "until": until})):
            screen.write(line)
        if run.signal is None and run.exit_code():
            raise screen.failure(log)
    if run.signal is not None:
        raise _stopped(run.signal, screen, config.root)


class _Run:
    """A run's processes, all of one group, and the signal that ended them, if one did."""

    def __init__(self, scratch: str) -> None:
        """Take the folder for their temporary files; the caller removes it."""
        self._scratch = scratch
        self._process: subprocess.Popen[str] | None = None
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "_Run":
        self._before = {number: signal.signal(number, self._end) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._wait_for_group(self._process.pid)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def lines(self, settings: str) -> Iterator[str]:
        """Start, and yield what the processes print until all have ended."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "exfm_pipelines.local_runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"TMPDIR": self._scratch, PIPELINE_RUN: uuid4().hex},
            process_group=0,  # a terminal's Ctrl-C reaches only the parent, which then ends all of them
        )
        if self.signal is not None:  # it came before there was a process to end
            self._kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(settings)
        yield from self._process.stdout

    def exit_code(self) -> int:
        """Return the exit code of the process that ran the pipeline."""
        assert self._process is not None
        return self._process.wait()

    def _end(self, number: int, frame: object) -> None:
        """Handle a signal: what the processes print then comes to its end, and with it the loop that reads it."""
        self.signal = signal.Signals(number)
        self._kill()

    def _kill(self) -> None:
        """Kill the whole group, unless its first process has ended, which outlives all steps."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _wait_for_group(self, group: int) -> None:
        give_up_s = time.monotonic() + _END_S
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < give_up_s:
                os.killpg(group, 0)
                time.sleep(_POLL_S)


def _stopped(number: signal.Signals, screen: Screen, root: str) -> StoppedError:
    """Remove what the stage at work had not finished, and return the error."""
    for output in layout.outputs(root, screen.stage):
        discard_unfinished(output)
    during = f" during {screen.stage}" if screen.stage and screen.stage not in screen.finished else ""
    return StoppedError(
        f"stopped by {number.name}{during}; what was done by then is kept below {root}, and nothing is half-written; "
        "run the same command again, it goes on",
        exit_code=128 + number,
    )
