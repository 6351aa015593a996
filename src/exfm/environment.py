"""What launchers of exfm give the processes that they start: environment variables, and an end with their parent.

COMPUTE_ENVIRONMENT is for every process with tensors: glibc and OpenMP read it only when a process starts.
docs/measurements.md has the figures behind its values.
"""

import ctypes
import os
import signal
import sys

COMPUTE_ENVIRONMENT = {
    # By default glibc returns blocks of several MB to the kernel each time, which slows down large tensors.
    "MALLOC_MMAP_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    # A kernel set to `madvise` gives huge pages only to processes that request them. glibc before 2.35 ignores this.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # By default OpenMP's threads spin so long while they wait that they slow down other processes. Without spinning,
    # each small step has to wake threads. GNU's runtime, which torch has, uses the turns, other runtimes the policy.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",
}
"""Thresholds and padding in bytes, spinning in turns of a loop. A variable that is set already keeps its value."""

PIPELINE_RUN = "EXFM_PIPELINE_RUN"
"""For a pipeline's steps: the id of the pipeline's run. Empty: a step by itself."""
IMAGE = "EXFM_IMAGE"
"""For steps in pods: the image that they run in."""


def compute_environment() -> dict[str, str]:
    """Return these variables, as this process's environment has them where it does."""
    return {name: os.environ.get(name, value) for name, value in COMPUTE_ENVIRONMENT.items()}


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork: a child must not take locks
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int = 0) -> None:
    """Have this process end with its parent, even if SIGKILL ends that; `parent` is its id, 0: not known.

    Linux only: elsewhere processes outlive a parent that could not stop them.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:  # the parent ended before the call
        os._exit(1)
