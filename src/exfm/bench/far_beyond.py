"""Simulations of loads and models far beyond this machine, timed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from exfm.planning.config import ShardingConfig
from exfm.planning.planner import make_plan
from exfm.planning.pricing.costs import CostModel, work_of
from exfm.planning.simulation.simulator import Load, Prediction, simulate
from exfm.planning.statistics import Statistics, TableStatistics
from exfm.planning.workloads import schema_of

NUM_TABLES = 1000
NUM_SHARDS = 128
TABLE_BYTES = 10e12
DIM = 64
CANDIDATES = 100
ITEM_SHARE = 0.2
"""Of the tables; the others are users'."""
POOLING = {"user": 10.0, "item": 2.0}

REQUESTS_PER_S = (1e3, 1e5)
UTILISATION = 0.6
"""That servers are counted for."""
NUM_REQUESTS = 20_000
NUM_WARMUP = 2_000


@dataclass(frozen=True)
class FarBeyond:
    """A large load's simulation."""

    predicted: Prediction
    rankers: int
    num_servers: int
    """Of all shards."""
    duration_s: float
    compile_s: float
    """Of the first simulation of this process, of few requests."""
    num_requests: int = NUM_REQUESTS
    num_warmup: int = NUM_WARMUP
    num_shards: int = NUM_SHARDS
    table_bytes: float = TABLE_BYTES


def far_beyond(costs: CostModel, *, seed: int) -> Iterator[FarBeyond]:
    """Yield simulations of a model of 1,000 tables and 10 TB on 128 shards, under rising loads."""
    statistics = _statistics(np.random.default_rng(seed))
    config = ShardingConfig(num_shards=NUM_SHARDS, shard_memory_gib=2 * TABLE_BYTES / NUM_SHARDS / 2**30)
    plan = make_plan(schema_of(statistics.tables), statistics, config, costs)
    work = work_of(plan, statistics)
    started_s = time.perf_counter()
    few = Load(requests_per_s=1.0, num_requests=100, num_warmup=0)
    simulate(plan, statistics, costs, few, rankers=1, seed=seed)
    compile_s = time.perf_counter() - started_s
    for requests_per_s in REQUESTS_PER_S:
        replicas = np.maximum(1, np.ceil(requests_per_s * costs.shard_cpu_s(work) / UTILISATION).astype(int))
        rankers = int(np.ceil(requests_per_s * costs.ranker_cpu_s(work, CANDIDATES) / UTILISATION))
        load = Load(requests_per_s=requests_per_s, num_requests=NUM_REQUESTS, num_warmup=NUM_WARMUP)
        started_s = time.perf_counter()
        scaled = plan.model_copy(update={"replicas": tuple(replicas.tolist())})
        predicted = simulate(scaled, statistics, costs, load, rankers=rankers, seed=seed)
        yield FarBeyond(predicted, rankers, int(replicas.sum()), time.perf_counter() - started_s, compile_s)


def _statistics(generator: np.random.Generator) -> Statistics:
    """Return tables whose sizes are log-normal."""
    shares = generator.lognormal(0.0, 1.5, size=NUM_TABLES)
    rows = np.maximum(1, np.rint(TABLE_BYTES * shares / shares.sum() / (4 * DIM))).astype(int)
    tables = []
    for index, num_rows in enumerate(np.minimum(rows, 2**32)):
        net = "item" if index < ITEM_SHARE * NUM_TABLES else "user"
        tables.append(
            TableStatistics(
                name=f"t{index:04d}",
                net=net,
                rows=int(num_rows),
                dim=DIM,
                request_share=1.0,
                bags_per_request=CANDIDATES if net == "item" else 1,
                pooling_mean=POOLING[net],
                pooling_p99=4 * POOLING[net],
            )
        )
    return Statistics(tables=tuple(tables), num_requests=1, candidates_mean=CANDIDATES)
