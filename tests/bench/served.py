"""Run as a program: a very small `exfm bench serving` into the folder that is named.

A program, because it holds kserve's messages and pytest's process holds tritonclient's.
"""

import sys
from pathlib import Path

from rich.console import Console

from exfm.bench.serving.bench import bench_serving
from exfm.bench.serving.config import Case, Memory, Peers, ServingBenchConfig, Sweep


def main() -> None:
    """Measure one model by both transports, sharded and with all tables in the ranker, in a closed and an open loop;
    then with items that come again, and a ranker that keeps them.

    Beside it some sizes of tables, memory, and KServe's own server.
    """
    config = ServingBenchConfig(
        blocks=6,
        starts=2,
        turns=1,
        warmup=1,
        distinct_requests=4,
        threads=0,
        bytes_factor=1e-5,
        dim_factor=0.125,
        network="small",
        cases=(
            Case(
                model="drm3",
                candidates=16,
                loads=(0.0, 0.3),
                local_tables_mib=(0, 1),  # which all of them fit into
                requests=4,
            ),
            Case(model="drm3", candidates=16, transports=("stream",), cache_mib=(1,), distinct_items=1_000, requests=4),
        ),
        sweep=Sweep(rows=(64, 128), num_tables=2, dim=4, candidates=8, requests=2),
        memory=Memory(requests=100, candidates=4),
        peers=Peers(model="drm3", candidates=8, requests=2),
    )
    bench_serving(Console(width=200), config, out=Path(sys.argv[1]))


if __name__ == "__main__":
    main()
