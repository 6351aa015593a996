"""Forecasts of a fleet's latency, by simulation. Only this part of planning needs numba."""

import math
from dataclasses import replace

from exfm.artifact.plan import ShardPlan
from exfm.planning.config import ShardingConfig
from exfm.planning.cost_model.costs import CallPrices, CostModel
from exfm.planning.cost_model.work import without_messages, work_by_net
from exfm.planning.perf_model.candidates import CandidatePlan
from exfm.planning.placement import SINGULAR, base_strategy
from exfm.planning.simulation.simulator import Load, Prediction, simulate
from exfm.planning.statistics import Statistics
from exfm.schema import Schema

UNLOADED_PER_S = 0.1
"""Requests per second if the load is unknown: so few that no request waits for another."""

SPAN_P99 = 50
"""Minimum time span of the simulated requests, as a multiple of their 99th percentile of latency.
In a shorter span queues do not reach a steady state, and the forecast is too low."""

MOST_REQUESTS = 100_000
"""Maximum number of requests that are simulated to reach SPAN_P99; very high loads do not reach it."""

NO_CALL = CallPrices(call_us=0, net_us=0, lookup_us=0, bag_ns=0, key_ns=0, byte_ns=0)


def forecast(candidate: CandidatePlan, schema: Schema, config: ShardingConfig, costs: CostModel) -> Prediction:
    """Return the prediction for a candidate under the demand; without a load, requests do not overlap.

    Raises: PlanError, as `simulate`.
    """
    demand, placement = config.demand, candidate.placement
    load = Load(
        requests_per_s=demand.requests_per_s or UNLOADED_PER_S,
        num_requests=demand.simulated_requests,
        num_warmup=demand.simulated_requests // 4,
        candidates_p99=demand.candidates_p99,
    )
    plan = candidate.plan(schema, strategy=placement.strategy)
    return simulate_plan(plan, placement.parts.statistics, costs, load, rankers=plan.rankers, seed=demand.seed)


def confirmed(candidate: CandidatePlan, schema: Schema, config: ShardingConfig, costs: CostModel) -> Prediction:
    """Return the `forecast` that a plan promises; with a latency limit, it uses the demand's confirming requests.

    Raises: PlanError, as `simulate`.
    """
    if config.demand.p99_ms:
        config = config.model_copy(update={"demand": config.demand.confirming()})
    return forecast(candidate, schema, config, costs)


def simulate_plan(
    plan: ShardPlan, statistics: Statistics, costs: CostModel, load: Load, *, rankers: int, seed: int
) -> Prediction:
    """Return the prediction of `simulate`, with more requests if the load's are too few for queues to settle.

    For a singular plan, rankers do all lookups themselves.

    Raises: PlanError, as `simulate`.
    """
    while True:
        prediction = _simulate(plan, statistics, costs, load, rankers=rankers, seed=seed)
        enough = math.ceil(load.requests_per_s * SPAN_P99 * prediction.p99_ms * 1e-3)
        if prediction.is_overloaded or load.num_requests >= min(enough, MOST_REQUESTS):
            return prediction
        num_requests = min(enough, MOST_REQUESTS)
        load = load.model_copy(update={"num_requests": num_requests, "num_warmup": num_requests // 4})


def _simulate(
    plan: ShardPlan, statistics: Statistics, costs: CostModel, load: Load, *, rankers: int, seed: int
) -> Prediction:
    if base_strategy(plan) != SINGULAR:
        return simulate(plan, statistics, costs, load, rankers=rankers, seed=seed)
    # The shard's work becomes the ranker's own: that of the user net per request, that of the item net per candidate.
    # The simulation keeps the call, at no cost. So requests differ less than their numbers of keys do. It leaves the
    # network out, so the client's latency in both directions is added afterwards.
    by_net = work_by_net(plan, statistics)
    user_s, item_s = (costs.shard_cpu_s(without_messages(by_net[net])).sum() for net in ("user", "item"))
    local = costs.model_copy(
        update={
            "ranker_request_us": costs.ranker_request_us + float(user_s) * 1e6,
            "ranker_candidate_us": costs.ranker_candidate_us + float(item_s) * 1e6 / statistics.candidates_mean,
            "ranker": NO_CALL,
            "shard": NO_CALL,
            "shard_cold_us": 0.0,
            "read_byte_ns": 0.0,
            "network_latency_us": 0.0,
            "network_byte_ns": 0.0,
        }
    )
    found = simulate(plan, statistics, local, load, rankers=rankers, seed=seed)
    network_ms = 2 * costs.network_latency_us * 1e-3
    return replace(
        found,
        p50_ms=found.p50_ms + network_ms,
        p90_ms=found.p90_ms + network_ms,
        p99_ms=found.p99_ms + network_ms,
        calls=0.0,
    )
