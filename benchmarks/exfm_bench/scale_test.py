"""Scale tests of the simulator: models and loads too large for this machine, timed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from exfm.artifact.plan import ShardPlan
from exfm.planning.config import Demand
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.planner import make_plan
from exfm.planning.simulation.simulator import Load, Prediction, simulate
from exfm_bench.large_models import Workload, ten_terabytes

REQUESTS_PER_S = (1e3, 1e5)
UTILISATION = 0.6
"""Utilisation of servers for which their number is planned."""
NUM_REQUESTS = 20_000
NUM_WARMUP = 2_000


@dataclass(frozen=True)
class ScaleTest:
    """A large load's simulation."""

    predicted: Prediction
    workload: Workload
    plan: ShardPlan
    duration_s: float
    num_requests: int
    num_warmup: int = NUM_WARMUP


def scale_tests(costs: CostModel, *, seed: int, num_requests: int = NUM_REQUESTS) -> Iterator[ScaleTest]:
    """Yield simulations of a model of 1,000 tables and 10 TB on 128 shards, under rising loads."""
    workload = ten_terabytes(seed)

    def timed(plan: ShardPlan, load: Load) -> tuple[Prediction, float]:
        started_s = time.perf_counter()
        predicted = simulate(plan, workload.statistics, costs, load, rankers=plan.rankers, seed=seed)
        return predicted, time.perf_counter() - started_s

    plans = {rate: _plan(workload, costs, requests_per_s=rate) for rate in REQUESTS_PER_S}
    timed(plans[REQUESTS_PER_S[0]], Load(requests_per_s=1.0, num_requests=100, num_warmup=0))  # compiles
    for rate, plan in plans.items():
        load = Load(requests_per_s=rate, num_requests=num_requests, num_warmup=NUM_WARMUP)
        predicted, duration_s = timed(plan, load)
        yield ScaleTest(predicted, workload, plan, duration_s, num_requests)


def _plan(workload: Workload, costs: CostModel, *, requests_per_s: float) -> ShardPlan:
    demand = Demand(requests_per_s=requests_per_s, max_utilisation=UTILISATION)
    config = workload.settings("capacity-balanced").model_copy(update={"demand": demand})
    return make_plan(workload.schema, workload.statistics, config, costs)
