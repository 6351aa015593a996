"""The environment that every process with tensors starts in; every launcher of ours sets it.

glibc and OpenMP read it once, so it is for new processes.
"""

import os

COMPUTE_ENVIRONMENT = {
    # glibc gives blocks of several MB back to the kernel each time: 2-4x on such tensors (2 vCPU, torch 2.13).
    "MALLOC_MMAP_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    # And it asks for huge pages, which a kernel set to `madvise` gives only to who asks: large tensors then take fewer
    # steps from address to memory. P50 and CPU time 0.96 and 0.95 of those without in fp32, 0.94 and 0.95 in int8 (512
    # candidates, MLPerf's layers, 2 vCPU, 2026-11), for 20 to 40 MiB more a process. glibc before 2.35 knows no such
    # tunable, and says nothing.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # OpenMP's threads spin while they wait, by default for so long that dense layers (512 candidates, 2 threads on 2
    # vCPU, 2026-11) took 4 (fp32) to 17 times (int8) as long beside one busy process. Never to spin costs them 10 to
    # 25 % when alone, as each small step wakes threads anew. 10,000 turns cost nothing then, and 5 to 40 % beside that
    # process. GNU's runtime, which torch comes with, goes by the turns, others by the policy.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "10000",
}
"""Thresholds and padding in bytes, spinning in turns of a loop. Who sets one of these names is not overridden."""


def compute_environment() -> dict[str, str]:
    """Return these variables, as this process's environment has them where it does."""
    return {name: os.environ.get(name, value) for name, value in COMPUTE_ENVIRONMENT.items()}
