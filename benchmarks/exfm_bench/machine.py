"""The machine that measurements are made on, in words."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from exfm.environment import compute_environment


def processor() -> str:
    """Return what the kernel calls this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def scheduling() -> str:
    """Return how this process, and so the servers that it starts, are scheduled."""
    policy = os.sched_getscheduler(0)
    if policy in (os.SCHED_FIFO, os.SCHED_RR):
        return "at real-time priority"
    return f"at nice {os.nice(0)}"


def environment() -> str:
    """Return the variables that set memory and threads of a server when it starts."""
    return ", ".join(f"{name}={value}" for name, value in compute_environment().items())


def versions(*packages: str) -> str:
    """Return the installed packages with their versions, and Python's."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])
