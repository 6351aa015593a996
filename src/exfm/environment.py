"""The environment that every process with tensors starts in; every launcher of ours sets it.

glibc and OpenMP read it once, so it is for new processes.
"""

COMPUTE_ENVIRONMENT = {
    # glibc gives blocks of several MB back to the kernel each time: 2-4x on such tensors (2 vCPU, torch 2.13).
    "MALLOC_MMAP_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    # OpenMP's threads spin while they wait: a foundation model that trains in 8 s beside another busy process took
    # 12 s and, beside two, 48 s (2 vCPU, 2026-11); alone, spinning wins 20 %.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Thresholds and padding in bytes."""
