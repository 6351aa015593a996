"""Run as a program: measures a few prices and loads for real, and prints what `exfm bench simulator` does.

A program, because it holds kserve's messages and pytest's process holds tritonclient's.
"""

import json

from rich.console import Console

from exfm.bench.simulator import Setting, bench_simulator
from exfm.bench.slopes import measure_slopes
from exfm.planning.pricing.costs import DEFAULT_COSTS


def main() -> None:
    """Print the slopes as a line of JSON, then the benchmark's tables."""
    slopes = measure_slopes(seed=0)
    print(json.dumps({"ranker": slopes.ranker.to_dict(), "shard": slopes.shard.to_dict()}))
    bench_simulator(
        Console(width=160),
        DEFAULT_COSTS,
        num_rounds=2,
        num_requests=200,
        seed=0,
        shown=[Setting("one shard", "one-shard", 1, (10, 50), (0.3,))],
        judging=[Setting("two shards", "nsbp", 2, (20,), (0.2,))],
    )


if __name__ == "__main__":
    main()
