"""The rig's namespaces: made, entered, and ended."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from rig.cgroups import create_cgroups, remove_cgroups
from rig.configuration import packet_rules
from rig.errors import RigError
from rig.layout import HIDDEN, MAX_SLOTS, Layout
from rig.processes import init_pid, members
from rig.waiting import wait_for


def free_slot() -> int:
    """Return the lowest slot whose link this machine does not have. Raises: RigError where all are taken."""
    for slot in range(MAX_SLOTS):
        if not _link(Layout(Path(), Path(), slot)).exists():
            return slot
    raise RigError(f"{MAX_SLOTS} rigs are up on this machine already; take one down")


def create(layout: Layout, *, pause: str) -> None:
    """Make the rig's cgroups, namespaces and link to the machine, and start their first process."""
    create_cgroups(layout)
    unshare = ("setsid", "--fork", "unshare", "--fork", "--pid", "--net", "--mount", "--mount-proc", pause)
    member, folder = layout.marker.split("=", 1)
    with (layout.logs / "init.log").open("ab") as log:
        subprocess.run(
            unshare, env={member: folder, "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True,
        )  # fmt: skip
    init = wait_for(lambda: init_pid(layout), what="the rig's first process", timeout_s=10)
    for hidden in HIDDEN:
        inside(layout, "mount", "-t", "tmpfs", "-o", "mode=755", "rig", str(hidden))
    _run("ip", "link", "add", layout.name, "type", "veth", "peer", "name", "uplink", "netns", str(init))
    _run("ip", "address", "add", f"{layout.machine_address}/30", "dev", layout.name)
    _run("ip", "link", "set", layout.name, "up")
    inside(layout, "ip", "address", "add", f"{layout.node_address}/30", "dev", "uplink")
    inside(layout, "ip", "link", "set", "uplink", "up")
    inside(layout, "ip", "link", "set", "lo", "up")
    inside(layout, "sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")
    inside(layout, "nft", "--file", "-", text=packet_rules(layout))
    # Without a default route the node needs one for what kube-proxy rewrites, or it never comes to the rewriting.
    inside(layout, "ip", "route", "add", layout.service_range, "dev", "lo", "src", layout.node_address)
    for addresses in (layout.pod_range, layout.service_range):
        _run("ip", "route", "add", addresses, "via", layout.node_address)


def entrance(layout: Layout) -> tuple[str, ...]:
    """Return the command that runs another in the rig's namespaces. Raises: RigError where there are none."""
    init = init_pid(layout)
    if init is None:
        raise RigError(f"no rig is up in {layout.folder}; run `make cluster`")
    return ("nsenter", f"--target={init}", "--mount", "--pid", "--net", "--wd=/")


def inside(layout: Layout, *command: str, text: str | None = None) -> str:
    """Run a command in the rig's namespaces and return what it printed. Raises: RigError where it fails."""
    return _run(*entrance(layout), *command, text=text)


def destroy(layout: Layout) -> None:
    """End every process of the rig and remove its cgroups and its folder, at whatever stage it is."""
    deadline = time.monotonic() + 30
    while processes := members(layout):
        if time.monotonic() > deadline:
            raise RigError(f"killed 30 s ago and still there: pids {[process.pid for process in processes]}")
        # The first in the namespaces takes all others in there with it, and its parent ends when it has collected it.
        firsts = [process for process in processes if process.namespace_pid == 1]
        for process in firsts or processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.05)
    if layout.state_file.exists():
        remove_cgroups(layout)
        wait_for(lambda: not _link(layout).exists(), what=f"the end of link {layout.name}")
        shutil.rmtree(layout.folder)
    elif layout.folder.exists():
        try:
            layout.folder.rmdir()
        except OSError as error:
            raise RigError(f"{layout.folder} is no rig's folder, and is not empty; set EXFM_RIG_DIR") from error


def _link(layout: Layout) -> Path:
    return Path("/sys/class/net", layout.name)


def _run(*command: str, text: str | None = None) -> str:
    process = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise RigError(f"{' '.join(command)} failed: {(process.stderr or process.stdout).strip()}")
    return process.stdout
