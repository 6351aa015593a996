"""Starts, watches and stops server processes on this machine, which end with their parent."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import httpx

from exfm.environment import compute_environment, end_with_parent
from exfm.errors import ConfigError, ServingError

LOOPBACK = "127.0.0.1"

FREE_PORTS = range(10_000, 32_768)
"""Range of free ports: below the ports that Linux uses for clients' connections."""

_LOG_LINES_SHOWN = 8
POLL_S = 0.02
"""Pause between two looks at a server."""

_PORT_CLASSES = 16
"""Processes that start servers at the same moment use ports of different classes, except one in this many."""


@dataclass(frozen=True)
class ServerProcess:
    """One running server."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    """File with the server's stdout and stderr."""

    def check(self) -> None:
        """Return if the server runs.

        Raises: ServingError, with the last lines of its log.
        """
        status = self.process.poll()
        if status is not None:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LOG_LINES_SHOWN:]
            how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
            raise ServingError("\n  ".join([f"{self.name} {how}; its last lines:", *(lines or ["(none)"])]))

    def wait_until_ready(self, url: str, *, watch: Callable[[], None], timeout_s: float) -> None:
        """Return once a GET of `url` succeeds. Meanwhile `watch` is called again and again; it may raise.

        Raises: ServingError if the server is not ready in time; as `watch`.
        """
        give_up_s = time.monotonic() + timeout_s
        with httpx.Client(trust_env=False, timeout=1.0) as client:
            while not _succeeds(client, url):
                watch()
                if time.monotonic() > give_up_s:
                    raise ServingError(f"{self.name} was not ready within {timeout_s:.0f} s")
                time.sleep(POLL_S)


class Start(Protocol):
    """Starts a server's program, as `start_process` does."""

    def __call__(self, name: str, arguments: Sequence[str], *, log: Path) -> ServerProcess:
        """Return the running program; the arguments are those of `python -m`."""


def start_process(name: str, arguments: Sequence[str], *, log: Path) -> ServerProcess:
    """Start `python -m` with these arguments; the process ends with the calling thread."""
    command = [sys.executable, "-m", *arguments]
    return start_command(name, command, environment={**os.environ, **compute_environment()}, log=log)


def start_command(name: str, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> ServerProcess:
    """Start a command with exactly this environment; it ends with the calling thread."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C reaches only the parent, which stops its servers
            preexec_fn=partial(end_with_parent, os.getpid()),
        )
    return ServerProcess(name=name, process=process, log=log)


def stop_processes(servers: Sequence[ServerProcess], *, timeout_s: float) -> None:
    """Stop all servers at once by SIGTERM, and those that run after `timeout_s` by SIGKILL."""
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
    """Return these loopback ports, with a free port for each 0; all are free now.

    Raises: ConfigError if a port is in use.
    """
    with ExitStack() as taken:
        return [taken.enter_context(_bound(port)).getsockname()[1] for port in wanted]


def _bound(port: int) -> socket.socket:
    """Return a socket on this loopback port; 0: a free port.

    Raises: ConfigError if the port is in use, or no port is free.
    """
    candidates = [port]
    if port == 0:
        candidates = [one for one in FREE_PORTS if one % _PORT_CLASSES == os.getpid() % _PORT_CLASSES]
        random.shuffle(candidates)
    for candidate in candidates:
        try:
            return socket.create_server((LOOPBACK, candidate))
        except OSError as error:
            problem = error
    what = f"port {port} of {LOOPBACK}" if port else f"any of {len(candidates)} ports of {LOOPBACK}"
    remedy = "choose another port" if port else "stop other servers"
    raise ConfigError(f"cannot listen on {what} ({problem.strerror}); {remedy}") from problem


def _succeeds(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 200
    except httpx.TransportError:  # nothing listens there yet
        return False
