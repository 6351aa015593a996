"""Starts and stops one daemon in the rig's namespaces, detached from whoever asked."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress

from rig.cgroups import daemon_cgroups
from rig.daemons import Daemon
from rig.errors import RigError
from rig.layout import Layout
from rig.processes import daemon_pid, holds_ports
from rig.sandbox import entrance
from rig.waiting import wait_for

# Joins the rig's cgroups, notes its pid and becomes the daemon.
LAUNCHER = 'for cgroup in $1; do echo $$ >"$cgroup/cgroup.procs"; done; echo $$ >"$2"; shift 2; exec "$@"'


def start(layout: Layout, daemon: Daemon) -> None:
    """Start a daemon; its output is added to its log."""
    joined = " ".join(map(str, daemon_cgroups(layout)))
    launcher = ("sh", "-c", LAUNCHER, "sh", joined, str(layout.pids / daemon.name))
    member, folder = layout.marker.split("=", 1)
    environment = {member: folder, "EXFM_RIG_DAEMON": daemon.name, "PATH": os.environ["PATH"], "HOME": "/root"}
    (layout.pids / daemon.name).unlink(missing_ok=True)
    with (layout.logs / f"{daemon.name}.log").open("ab") as log:
        subprocess.run(
            [*entrance(layout), "setsid", "--fork", *launcher, *daemon.argv],
            env=environment | daemon.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True,
        )  # fmt: skip


def stop(layout: Layout, name: str, *, patience_s: float = 3.0) -> None:
    """Ask a daemon to end, and kill it where it takes longer than `patience_s`."""
    for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
        pid = daemon_pid(layout, name)
        if pid is None:
            break
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        with suppress(RigError):
            wait_for(lambda: daemon_pid(layout, name) is None, what=f"the end of {name}", timeout_s=wait_s)
    wait_for(lambda: not holds_ports(layout, name), what=f"the end of {name}, which was killed", timeout_s=10.0)


def await_daemon(layout: Layout, name: str, ready: Callable[[], object], *, timeout_s: float = 60.0) -> None:
    """Wait until a daemon is ready. Raises: RigError with its log's last line where it ends first, or is too late."""

    def probe() -> bool:
        if (layout.pids / name).exists() and daemon_pid(layout, name) is None:
            raise RigError(f"{name} ended: {last_line(layout, name)} ({layout.logs}/{name}.log)")
        return bool(ready())

    wait_for(probe, what=f"{name}, whose log is {layout.logs}/{name}.log", timeout_s=timeout_s)


def last_line(layout: Layout, name: str) -> str:
    """Return the last line of a daemon's log."""
    lines = (layout.logs / f"{name}.log").read_text(errors="replace").splitlines()
    return lines[-1][:500] if lines else "it said nothing"
