"""The topology of servers: how many a placement needs under a load, their memory and their cost.

Legend: P parts, S shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exfm.artifact.plan import ROW_SET_BYTES
from exfm.planning.arrays import Floats, Integers
from exfm.planning.config import ShardingConfig
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.cost_model.work import calls_only, without_messages
from exfm.planning.placement import Placement

MOST_STEPS = 60
"""Maximum number of Newton steps. A step doubles the correct digits, or halves the error if servers are nearly cold."""

ROUNDING = 1e-9
"""Share by which the required servers may exceed a whole number without another server."""


@dataclass(frozen=True)
class Needs:
    """CPU time of warm servers and memory of one server of each kind, for a placement."""

    shard_cpu_s: Floats
    """CPU time of each shard in a mean request, shape [S]; empty for a singular placement, which has no shards."""
    shard_bytes: Floats
    """Memory of each shard's tables and its index of hot rows, shape [S]; empty for a singular placement."""
    ranker_cpu_s: float
    """CPU time of the ranker in a mean request."""
    ranker_bytes: float
    """Memory of the ranker's index of hot rows; for a singular placement, of all tables."""


@dataclass(frozen=True)
class Fleet:
    """The servers of a plan, and their cost."""

    replicas: tuple[int, ...]
    """Servers of each shard; for a singular placement, the number of rankers."""
    rankers: int
    pods: int
    memory_bytes: int
    """Memory of all pods: every copy of a table, indexes of hot rows, and the overhead of each process."""
    cost: float
    """Cost of all pods, in the unit of the prices."""


def needs_of(placement: Placement, costs: CostModel) -> Needs:
    """Return the needs of a placement; a singular one has no calls and no messages."""
    parts, candidates = placement.parts, placement.parts.statistics.candidates_mean
    own_s = costs.ranker_cpu_s(calls_only(np.zeros(1)), candidates)
    if placement.is_singular:
        lookups_s = float(costs.shard_cpu_s(without_messages(parts.work)).sum())
        return Needs(np.zeros(0), np.zeros(0), own_s + lookups_s, float(parts.size_bytes.sum()))
    nets_S = np.zeros(placement.num_shards)
    for nets in (("user", "both"), ("item", "both")):
        has_net = np.array([table.net in nets for table in parts.statistics.tables])[parts.table]
        nets_S += np.bincount(placement.shard_of, has_net, placement.num_shards) > 0
    calls = calls_only(nets_S)
    rows_T = np.array([table.rows for table in parts.statistics.tables])
    row_sets_P = np.where(parts.is_hot, rows_T[parts.table] * ROW_SET_BYTES, 0.0)
    return Needs(
        shard_cpu_s=placement.shard_cpu_s + costs.shard_cpu_s(calls),
        shard_bytes=(placement.shard_bytes + np.bincount(placement.shard_of, row_sets_P, placement.num_shards)).astype(
            np.float64
        ),
        ranker_cpu_s=costs.ranker_cpu_s(calls, candidates) + float(parts.ranker_cpu_s.sum()),
        ranker_bytes=float(row_sets_P.sum()),
    )


def fleet_of(needs: Needs, config: ShardingConfig, costs: CostModel, *, utilisation: float) -> Fleet:
    """Return the fewest servers whose mean utilisation under the demand is at most `utilisation`.

    If the load is unknown, the number is that of `min_replicas`.
    """
    replicas = num_servers(needs.shard_cpu_s, costs.shard_cold_us, config, costs, utilisation=utilisation).tolist()
    rankers = num_servers(np.array(needs.ranker_cpu_s), costs.ranker_cold_us, config, costs, utilisation=utilisation)
    return priced(needs, replicas, int(rankers), config)


def priced(needs: Needs, replicas: Sequence[int], rankers: int, config: ShardingConfig) -> Fleet:
    """Return a fleet with these servers of each shard and these rankers, with its memory and its cost."""
    pods = rankers + sum(replicas)
    memory_bytes = rankers * needs.ranker_bytes + float(np.dot(needs.shard_bytes, replicas))
    memory_bytes += pods * config.prices.overhead_gib * 2**30
    return Fleet(
        replicas=tuple(replicas) or (rankers,),
        rankers=rankers,
        pods=pods,
        memory_bytes=int(memory_bytes),
        cost=pods * config.prices.core + memory_bytes / 2**30 * config.prices.gib,
    )


def num_servers(
    cpu_s: Floats, cold_us: float, config: ShardingConfig, costs: CostModel, *, utilisation: float
) -> Integers:
    """Return the servers for requests of this CPU time at a warm server, of which a cold one takes `cold_us` more."""
    cooled = cooled_s(cpu_s, cold_us, config, costs, utilisation=utilisation)
    wanted = np.ceil(config.demand.requests_per_s * cooled / utilisation * (1 - ROUNDING))
    return np.maximum(config.demand.min_replicas, wanted).astype(np.int64)


def cooled_s(warm_s: Floats, cold_us: float, config: ShardingConfig, costs: CostModel, *, utilisation: float) -> Floats:
    """Return the CPU time of a request at servers of this utilisation, of which a cold one takes `cold_us` more.

    A server with a request every t seconds is cold by 1 - exp(-t / cooling); irregular arrivals make it less cold in
    the mean (Jensen). The number of servers n solves n = rate * (warm + coldness(n) * cold) / utilisation. The right
    side is concave, so Newton's method converges from above, where all servers are cold.
    """
    cold_s, cooling_s, rate = cold_us * 1e-6, costs.cooling_ms * 1e-3, config.demand.requests_per_s
    if not rate:
        return warm_s + cold_s
    servers = rate * (warm_s + cold_s) / utilisation
    for _ in range(MOST_STEPS):
        warmth = np.exp(-servers / (rate * cooling_s))
        too_many = servers - rate * (warm_s + cold_s * (1 - warmth)) / utilisation
        step = too_many / np.maximum(1 - cold_s / (cooling_s * utilisation) * warmth, ROUNDING)
        servers = servers - step
        if (step <= ROUNDING * servers / 2).all():
            break
    return servers * utilisation / rate


def call_cpu_s(costs: CostModel) -> tuple[float, float]:
    """Return the CPU time of a call for one net without lookups: at the shard, and at the ranker."""
    call, none = calls_only(np.ones(1)), calls_only(np.zeros(1))
    return float(costs.shard_cpu_s(call)[0]), costs.ranker_cpu_s(call, 0) - costs.ranker_cpu_s(none, 0)
