"""CPU time of processes and of the whole machine, as Linux counts it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exfm.errors import ConfigError

_BUSY_FIELDS = (0, 1, 2, 5, 6)
"""Fields of /proc/stat's first line: user, nice, system, irq, softirq. Stolen time belongs to another machine."""


@dataclass(frozen=True)
class CpuClock:
    """CPU seconds at one moment."""

    processes_s: tuple[float, ...]
    """CPU time of each process that was named."""
    machine_s: float
    """CPU time of all processes, in steps of the kernel's tick (10 ms)."""

    @classmethod
    def read(cls, pids: Sequence[int]) -> "CpuClock":
        """Return the CPU time of these processes and of the machine now.

        Raises: ConfigError where the kernel does not report them.
        """
        try:
            ticks = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
            busy_s = sum(int(ticks[field]) for field in _BUSY_FIELDS) / os.sysconf("SC_CLK_TCK")
            return cls(tuple(_process_s(pid) for pid in pids), busy_s)
        except OSError as error:
            raise ConfigError(f"CPU times cannot be read ({error}); measure on Linux with schedstats") from error

    def since(self, earlier: "CpuClock") -> "CpuClock":
        """Return the CPU time between an earlier moment and this one."""
        spent_s = (now_s - then_s for now_s, then_s in zip(self.processes_s, earlier.processes_s, strict=True))
        return CpuClock(tuple(spent_s), self.machine_s - earlier.machine_s)


def _process_s(pid: int) -> float:
    """Return the CPU time of a process's threads, but for those that ended."""
    total_ns = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            total_ns += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
        except (FileNotFoundError, ProcessLookupError):  # it ended just now
            continue
    return total_ns * 1e-9
