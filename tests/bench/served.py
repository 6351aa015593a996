"""`main`, run as a program, is a very small `exfm bench serving`, twice, into two folders of the one named."""

import sys
from functools import partial
from pathlib import Path

from rich.console import Console

from exfm.serving.local.serving import serve_local
from exfm_bench.serving import servers
from exfm_bench.serving.bench import bench_serving
from exfm_bench.serving.config import Memory, Peers, Scenario, ServingBenchConfig, Sweep
from forked_servers import ForkedServers

SMALL = ServingBenchConfig(
    blocks=6,
    starts=1,
    turns=1,
    distinct_requests=4,
    threads=1,
    bytes_factor=1e-5,
    dim_factor=0.125,
    network="small",
    scenarios=(),
    sweep=Sweep(rows=(64,), num_tables=2, dim=4, candidates=8, requests=2),
    memory=Memory(requests=50, candidates=4),
    peers=Peers(model="drm3", candidates=8, requests=2),
)


def main() -> None:
    """Measure one model in a closed and an open loop; then tables of one size, memory, and KServe's own server."""
    servers.serve_local = partial(serve_local, start=ForkedServers())
    of_scenario = {
        "threads": 0,
        "scenarios": (Scenario(model="drm3", candidates=16, loads=(0.0, 0.3), requests=4),),
        "sweep": Sweep(rows=()),
        "memory": Memory(requests=0),
        "peers": Peers(model="none"),
    }
    for name, update in (("scenario", of_scenario), ("beside", {})):
        bench_serving(Console(width=200), SMALL.model_copy(update=update), out=Path(sys.argv[1]) / name)
