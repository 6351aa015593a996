"""The environment that every process with tensors starts in; every launcher of ours sets it.

glibc and OpenMP read it once, so it is for new processes.
"""

import os

COMPUTE_ENVIRONMENT = {
    # glibc gives blocks of several MB back to the kernel each time: 2-4x on such tensors (2 vCPU, torch 2.13).
    "MALLOC_MMAP_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    # OpenMP's threads spin while they wait, by default for so long that dense layers (512 candidates, 2 threads on 2
    # vCPU, 2026-11) took 4 (fp32) to 17 times (int8) as long beside one busy process. Never to spin costs them 10 to
    # 25 % when alone, as each small step wakes threads anew. 10,000 turns cost nothing then, and 5 to 40 % beside that
    # process. GNU's runtime, which torch comes with, goes by the turns, others by the policy.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",
}
"""Thresholds and padding in bytes, spinning in turns of a loop."""


def compute_environment() -> dict[str, str]:
    """Return these variables, as this process's environment has them where it does."""
    return {name: os.environ.get(name, value) for name, value in COMPUTE_ENVIRONMENT.items()}
