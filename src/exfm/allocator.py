"""glibc's malloc, told to keep large blocks: by default it gives tensors of several MB back to the kernel each time.

Measured 2-4x on such tensors (2 vCPU, torch 2.13). glibc reads these once, so they are for the environment of new
processes: every launcher sets them.
"""

MALLOC_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""Thresholds and padding in bytes."""
