"""Server processes on this machine: started, watched and stopped, and gone when their parent is."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exfm.environment import compute_environment
from exfm.errors import ConfigError, ServingError

LOOPBACK = "127.0.0.1"

_LOG_LINES_SHOWN = 8
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ServerProcess:
    """One running server."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    """What it wrote to stdout and stderr."""

    def check(self) -> None:
        """Return if it runs.

        Raises: ServingError, with the last lines that it wrote.
        """
        status = self.process.poll()
        if status is not None:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LOG_LINES_SHOWN:]
            how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
            raise ServingError("\n  ".join([f"{self.name} {how}; its last lines:", *(lines or ["(none)"])]))

    def wait_until(self, is_ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Return once it is ready.

        Raises: ServingError if it ends before, or is not ready in time.
        """
        give_up_s = time.monotonic() + timeout_s
        while not is_ready():
            self.check()
            if time.monotonic() > give_up_s:
                raise ServingError(f"{self.name} was not ready within {timeout_s:.0f} s")
            time.sleep(_POLL_S)


def start_process(name: str, arguments: Sequence[str], *, log: Path) -> ServerProcess:
    """Start `python -m` with these arguments; the process ends when the thread that calls this does."""
    command = [sys.executable, "-m", *arguments]
    return start_command(name, command, environment={**os.environ, **compute_environment()}, log=log)


def start_command(name: str, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> ServerProcess:
    """Start a command in this environment and no other; it ends when the thread that calls this does."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C reaches the parent alone, which then stops its servers
            preexec_fn=_end_with_parent(),
        )
    return ServerProcess(name=name, process=process, log=log)


def stop_processes(servers: Sequence[ServerProcess], *, timeout_s: float) -> None:
    """Stop servers by SIGTERM, all at once, and by SIGKILL those that still run when the time is up."""
    for server in servers:
        if server.process.poll() is None:
            server.process.terminate()
    give_up_s = time.monotonic() + timeout_s
    for server in servers:
        try:
            server.process.wait(timeout=max(0.0, give_up_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def claim_ports(wanted: Sequence[int]) -> list[int]:
    """Return these loopback ports, each 0 replaced by a free one; all are free at this moment.

    Raises: ConfigError if a port is in use.
    """
    sockets: list[socket.socket] = []
    try:
        for port in wanted:
            try:
                sockets.append(socket.create_server((LOOPBACK, port)))
            except OSError as error:
                raise ConfigError(
                    f"port {port} on {LOOPBACK} cannot be had ({error.strerror}); give another port"
                ) from error
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _end_with_parent() -> Callable[[], None] | None:
    """Return what makes a child of ours die with us, even when we are killed by SIGKILL.

    Linux only; elsewhere servers outlive a parent that could not stop them.
    """
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()  # loaded before the fork: the child must not take locks

    def end_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return end_with_parent
