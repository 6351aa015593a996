"""The processes of a rig.

A process is the rig's where its environment, as it was when it was started, names the rig's folder. So `down` needs no
list of pids, and ends nothing that the rig did not start. Containers do not inherit it; the kernel ends them together
with the first process of the rig's process namespace.
"""

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rig.layout import Layout


@dataclass(frozen=True)
class Process:
    """A living process of the rig."""

    pid: int
    namespace_pid: int
    """Its pid in the innermost process namespace that it is in; equal to `pid` outside the rig's."""
    environment: frozenset[str]


def members(layout: Layout) -> list[Process]:
    """Return the living processes that the rig started, except the caller and its ancestors."""
    pids = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()} - _ancestry()
    found = (_process(pid) for pid in sorted(pids))
    return [process for process in found if process and layout.marker in process.environment]


def init_pid(layout: Layout) -> int | None:
    """Return the pid of the first process in the rig's namespaces, or None where there is none."""
    return next((process.pid for process in members(layout) if process.namespace_pid == 1), None)


def daemon_pid(layout: Layout, name: str) -> int | None:
    """Return the pid of a daemon as this machine counts, or None where it is not running."""
    try:
        namespace_pid = int((layout.pids / name).read_text())
    except (OSError, ValueError):
        return None
    started = f"EXFM_RIG_DAEMON={name}"
    for process in members(layout):
        if process.namespace_pid == namespace_pid and started in process.environment:
            return process.pid
    return None


def holds_ports(layout: Layout, name: str) -> bool:
    """Return whether a daemon is there, or was killed and has not closed its sockets yet.

    A process that ends loses its environment first, then its files, and after them its network namespace.
    """
    init = init_pid(layout)
    try:
        namespace_pid = int((layout.pids / name).read_text())
        network = Path(f"/proc/{init}/ns/net").readlink()
    except (OSError, ValueError):
        return False
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "ns/net").readlink() == network and _namespace_pid(entry) == namespace_pid:
                return True
    return False


def _process(pid: int) -> Process | None:
    """Return a process, or None where it is gone or dead, though nobody has collected it."""
    with suppress(OSError):
        environment = _environment(pid).split("\0")
        namespace_pid = _namespace_pid(Path(f"/proc/{pid}"))
        if namespace_pid is not None:
            return Process(pid, namespace_pid, frozenset(environment))
    return None


def _namespace_pid(folder: Path) -> int | None:
    found = re.search(r"^NSpid:.*?(\d+)$", (folder / "status").read_text(), re.MULTILINE)
    return int(found[1]) if found else None


def _environment(pid: int) -> str:
    """Return a process's environment. For a moment of its exec a process shows none, so that is asked for again."""
    for _ in range(5):
        if text := Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace"):
            return text
        Path(f"/proc/{pid}/exe").readlink()  # fails for a kernel thread and a dead process, which have none for good
        time.sleep(0.01)
    return ""


def _ancestry() -> set[int]:
    pid, pids = os.getpid(), set()
    while pid > 0:
        pids.add(pid)
        found = re.search(r"^PPid:\s+(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        pid = int(found[1]) if found else 0
    return pids
