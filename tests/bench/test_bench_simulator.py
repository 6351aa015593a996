from io import StringIO

import pytest
from rich.console import Console

from exfm.bench.simulator import Setting, bench_simulator
from exfm.sharding.costs import DEFAULT_COSTS


@pytest.mark.slow
def test_real_servers_are_measured_predicted_and_compared() -> None:
    out = StringIO()
    costs = bench_simulator(
        Console(file=out, width=160),
        DEFAULT_COSTS,
        num_rounds=2,
        num_requests=200,
        seed=0,
        shown=[Setting("one shard", "one-shard", 1, (10, 50), (0.3,))],
        judging=[Setting("two shards", "nsbp", 2, (20,), (0.2,))],
    )
    assert costs != DEFAULT_COSTS
    assert costs.shard_cpu_s
    text = out.getvalue()
    for line in ("calibrated on", "validated on", "two shards", "P99: off by", "of 1 within 15%", "100,000 requests/s"):
        assert line in text
