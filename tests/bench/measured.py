"""`main`, run as a program, measures a few loads and prints what `exfm bench simulator` does."""

from functools import partial

from rich.console import Console

from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm.serving.local.serving import serve_local
from exfm_bench import measurement
from exfm_bench.simulator import Setting, bench_simulator
from exfm_bench.slopes import SCENARIOS
from forked_servers import ForkedServers


def main() -> None:
    """Print the benchmark's tables."""
    measurement.serve_local = partial(serve_local, start=ForkedServers())
    bench_simulator(
        Console(width=160),
        DEFAULT_COSTS,
        num_rounds=2,
        num_requests=40,
        seed=0,
        shown=[Setting("one shard", "one-shard", 1, (10,), (0.4,))],
        judging=[Setting("two shards", "nsbp", 2, (20,), (0.4,))],
        slope_scenarios=SCENARIOS[:9],
        num_simulated=100,
    )
