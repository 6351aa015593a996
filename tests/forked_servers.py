"""Servers forked from a process that has imported what they need, so that a start takes a fraction of a second.

Each is the program that `python -m` runs, with its own arguments, environment and log; only the imports are shared.
"""

import atexit
import ctypes
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import cast

import pytest

from exfm.environment import compute_environment
from exfm.serving.local.processes import ServerProcess

PRELOADED = ["exfm.serving.ranker.model", "exfm.serving.ranker.request_log", "exfm.serving.shard.model"]
"""What both programs import, and what takes nearly all of their start."""


PR_SET_PDEATHSIG = 1


class ForkedServers:
    """Starts servers as `exfm.serving.local.processes.start_process` does."""

    def __init__(self) -> None:
        """Start nothing yet; the first server waits for the imports."""
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def __call__(self, name: str, arguments: Sequence[str], *, log: Path) -> ServerProcess:
        """Start a program; it ends when this process does."""
        environment = {**os.environ, **compute_environment()}
        process = self._context.Process(target=_run, args=(list(arguments), environment, log))
        log.touch()
        with pytest.MonkeyPatch.context() as patch:  # the parent's own libraries read theirs when it starts
            for key, value in compute_environment().items():
                patch.setenv(key, value)
            process.start()
        return ServerProcess(name=name, process=cast(subprocess.Popen[bytes], ForkedProcess(process)), log=log)


class ForkedProcess:
    """A forked process, with the part of subprocess.Popen that owners of servers use."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        assert process.pid is not None, "it was started"
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return self._process.exitcode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for target, (path, flags) in enumerate(
        [(os.devnull, os.O_RDONLY), (str(log), os.O_WRONLY | os.O_TRUNC), (str(log), os.O_WRONLY | os.O_APPEND)]
    ):
        descriptor = os.open(path, flags)
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends a process without them
