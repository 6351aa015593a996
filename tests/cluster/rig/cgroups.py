"""The rig's cgroup: made before anything runs in it, removed with what is left in it."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from rig.layout import Layout
from rig.waiting import wait_for

HIERARCHIES = Path("/sys/fs/cgroup")

WEIGHTS = {"cpu.shares": 20_480, "cpu.weight": 2_000}
"""What the rig and all its pods weigh together: as much CPU time as 20 busy processes beside it get. Version 1's file,
and version 2's. By a cgroup's own weight, which is that of one process, a ranker on two cores beside a benchmark of ten
gave no answer for 10 s, and tests take that for lost requests (2026-11)."""


def cgroups(layout: Layout) -> list[Path]:
    """Return the rig's cgroup in every hierarchy: one for version 2, one per controller for version 1."""
    if (HIERARCHIES / "cgroup.procs").exists():
        return [HIERARCHIES / layout.name]
    tops = sorted(entry for entry in HIERARCHIES.iterdir() if (entry / "cgroup.procs").exists())
    return [top / layout.name for top in tops]


def daemon_cgroups(layout: Layout) -> list[Path]:
    """Return the cgroups that the daemons join. A new cpuset of version 1 takes none until it is given cores."""
    return [cgroup / "daemons" for cgroup in cgroups(layout) if cgroup.parent.name != "cpuset"]


def create_cgroups(layout: Layout) -> None:
    """Make the rig's cgroups; the kubelet makes the pods' below them."""
    for cgroup in cgroups(layout):
        cgroup.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if cgroup.parent.name == "cpuset":
                (cgroup / file).write_text((cgroup.parent / file).read_text())
        for file, weight in WEIGHTS.items():
            if (cgroup / file).exists():
                (cgroup / file).write_text(str(weight))
    for cgroup in daemon_cgroups(layout):
        cgroup.mkdir(exist_ok=True)


def remove_cgroups(layout: Layout) -> None:
    """Kill what still runs in the rig's cgroups and remove them."""
    for cgroup in cgroups(layout):
        wait_for(lambda top=cgroup: _remove(top), what=f"the end of {cgroup}")  # type: ignore[misc]


def _remove(top: Path) -> bool:
    for folder, _, _ in os.walk(top, topdown=False):
        with suppress(OSError):
            for pid in Path(folder, "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            Path(folder).rmdir()
    return not top.exists()
