"""What `auto` saves against the whole model on every server, at equal load and latency."""

import math
import time
from dataclasses import dataclass

from exfm.planning.config import Demand
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.partitioner.bounds import distance
from exfm.planning.perf_model.candidates import CandidatePlan, candidate_of
from exfm.planning.perf_model.forecast import forecast
from exfm.planning.planner import make_plan
from exfm.planning.proposer.strategies import STRATEGIES
from exfm.planning.reporting.comparison import compare
from exfm.planning.topology import Fleet
from exfm_bench.cost_bound import least_cost
from exfm_bench.large_models import Workload

NODE_GIB = 256.0
"""Memory of a shard: it holds the whole of each model."""


@dataclass(frozen=True)
class Saving:
    """The whole model on every server, and `auto`'s plan that is no slower."""

    workload: Workload
    requests_per_s: float
    p99_ms: float
    """P99 of servers with the whole model at the usual utilisation: the objective for all strategies."""
    whole: Fleet
    auto: CandidatePlan
    auto_p99_ms: float
    auto_distance: float
    """Distance of `auto`'s cost above a lower bound on the cost of plans with shard servers, at any latency."""
    seconds: float
    """Seconds to make `auto`'s plan, nearly all of them for simulations."""
    cheapest_other: float
    """Cost of the cheapest strategy but `auto` that meets the objective; `singular` aside, which is not rolled out."""


def saved(workload: Workload, requests_per_s: float, costs: CostModel) -> Saving:
    """Return what `auto` takes where whole models on every server set the latency.

    Raises: PlanError if nothing meets it.
    """
    config = workload.settings("auto").model_copy(
        update={"shard_memory_gib": NODE_GIB, "demand": Demand(requests_per_s=requests_per_s)}
    )
    singular = candidate_of(STRATEGIES["singular"](workload.statistics, config, costs), config, costs)
    surely = config.model_copy(update={"demand": config.demand.confirming()})
    p99_ms = forecast(singular, workload.schema, surely, costs).p99_ms
    demand = config.demand.model_copy(update={"p99_ms": p99_ms})
    config = config.model_copy(update={"demand": demand})
    rows = compare(workload.schema, workload.statistics, config, costs)
    start = time.perf_counter()
    make_plan(workload.schema, workload.statistics, config, costs)
    seconds = time.perf_counter() - start
    *others, auto = (row for row in rows if row.strategy != "singular")
    assert auto.candidate and auto.prediction, "make_plan found one"  # noqa: PT018
    return Saving(
        workload=workload,
        requests_per_s=requests_per_s,
        p99_ms=p99_ms,
        whole=singular.fleet,
        auto=auto.candidate,
        auto_p99_ms=auto.prediction.p99_ms,
        auto_distance=distance(auto.candidate.fleet.cost, least_cost(workload.statistics, config, costs)),
        seconds=seconds,
        cheapest_other=min(
            (row.candidate.fleet.cost for row in others if row.candidate and row.meets), default=math.inf
        ),
    )
