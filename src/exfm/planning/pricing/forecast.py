"""What servers will do, by simulation; the only part of planning that needs numba."""

import math
from dataclasses import replace

import numpy as np

from exfm.artifact.plan import ShardPlan
from exfm.planning.config import ShardingConfig
from exfm.planning.placing.placement import SINGULAR, Placement, base_strategy, plan_of
from exfm.planning.pricing.costs import CallPrices, CostModel, work_by_net
from exfm.planning.pricing.fleet import Fleet, without_messages
from exfm.planning.simulation.simulator import Load, Prediction, simulate
from exfm.planning.sizes import three_digits
from exfm.planning.statistics import Statistics
from exfm.schema import Schema

UNLOADED_PER_S = 0.1
"""Requests a second where the demand is not known: so few that none waits for another."""

SPAN_P99 = 50
"""Times the 99th percentile of latency that simulated requests take to come, at least: sooner no queue settles. On a
DRM2-like model at 10^5 requests/s, 4,000 requests told 46 ms, those of this span and of twice it 89 ms."""

MOST_REQUESTS = 100_000
"""That are simulated for that; above some 10^5 requests/s they come in less."""

NO_CALL = CallPrices(call_us=0, net_us=0, lookup_us=0, bag_ns=0, key_ns=0, byte_ns=0)


def forecast(
    placement: Placement, fleet: Fleet, schema: Schema, config: ShardingConfig, costs: CostModel
) -> Prediction:
    """Return what a placement's fleet will do under the demand, or alone with one request where no load is known.

    Raises: PlanError, as `simulate`.
    """
    demand, statistics = config.demand, placement.parts.statistics
    load = Load(
        requests_per_s=demand.requests_per_s or UNLOADED_PER_S,
        num_requests=demand.simulated_requests,
        num_warmup=demand.simulated_requests // 4,
        candidates_p99=demand.candidates_p99,
    )
    strategy = placement.strategy
    plan = plan_of(placement, schema, strategy=strategy, replicas=fleet.replicas, rankers=fleet.rankers)
    return simulate_plan(plan, statistics, costs, load, rankers=fleet.rankers, seed=demand.seed)


def confirmed(
    placement: Placement, fleet: Fleet, schema: Schema, config: ShardingConfig, costs: CostModel
) -> Prediction:
    """Return `forecast` for what a plan promises: where a latency is wanted, by the demand's confirming requests.

    Raises: PlanError, as `simulate`.
    """
    if config.demand.p99_ms:
        config = config.model_copy(update={"demand": config.demand.confirming()})
    return forecast(placement, fleet, schema, config, costs)


def simulate_plan(
    plan: ShardPlan, statistics: Statistics, costs: CostModel, load: Load, *, rankers: int, seed: int
) -> Prediction:
    """Return what `simulate` does, of more requests where those of the load come and go faster than queues fill; and of
    a singular plan what rankers do that look all up themselves.

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
    # What the shard would do is the ranker's own work: users' a constant of a request, items' of a candidate. The call
    # stays in the simulation but costs nothing, so that requests differ less than their numbers of keys do. Without the
    # network the client's two ways are missing; they are added.
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
    alone = simulate(plan, statistics, local, load, rankers=rankers, seed=seed)
    ways_ms = 2 * costs.network_latency_us * 1e-3
    return replace(
        alone, p50_ms=alone.p50_ms + ways_ms, p90_ms=alone.p90_ms + ways_ms, p99_ms=alone.p99_ms + ways_ms, calls=0.0
    )


def described(prediction: Prediction) -> tuple[str, ...]:
    """Return a prediction in lines for people."""
    busiest = int(np.argmax(prediction.shard_utilisation))
    lines = (
        f"latency at {prediction.requests_per_s:,g} requests/s: median {three_digits(prediction.p50_ms)} ms, "
        f"90 % {three_digits(prediction.p90_ms)} ms, 99 % {three_digits(prediction.p99_ms)} ms",
        f"CPU time of a request: {three_digits(prediction.cpu_ms)} ms, "
        f"{three_digits(prediction.ranker_cpu_ms)} ms of it at the ranker; {prediction.calls:g} calls to shards",
        f"busy: rankers {prediction.ranker_utilisation:.0%}, servers of shards "
        f"{min(prediction.shard_utilisation):.0%} to {max(prediction.shard_utilisation):.0%} (shard {busiest})",
    )
    if prediction.is_overloaded:
        return (*lines, "overloaded: queues grow for ever, and the latency only tells how long was simulated")
    return lines
