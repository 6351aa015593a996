"""How many servers a placement needs under a load, and what they cost.

Legend: P parts, S shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from exfm.artifact.plan import ROW_SET_BYTES
from exfm.planning.config import ShardingConfig
from exfm.planning.placing.placement import Placement
from exfm.planning.pricing.costs import CostModel, ShardWork

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MOST_STEPS = 60
"""Each doubles the digits that are right, so some 5 do; where a server is nearly all cold, each halves the error."""

ROUNDING = 1e-9
"""Share by which a number of servers may be above a whole one without wanting one more."""


@dataclass(frozen=True)
class Needs:
    """CPU time of warm servers and memory that a placement takes, whatever the number of servers."""

    shard_cpu_s: Floats
    """Of a mean request, shape [S]; empty for a singular placement, which has no shard servers."""
    shard_bytes: Floats
    """Tables, and what their hot rows are found by; shape [S], empty for a singular placement."""
    ranker_cpu_s: float
    """Of a mean request."""
    ranker_bytes: float
    """What hot rows are found by; for a singular placement, all tables."""

    @property
    def cpu_s(self) -> float:
        """Return the CPU time of a mean request of warm servers, at the ranker and the shards together."""
        return self.ranker_cpu_s + float(self.shard_cpu_s.sum())


@dataclass(frozen=True)
class Fleet:
    """Servers, and what they cost."""

    replicas: tuple[int, ...]
    """Servers of each shard; for a singular placement, the number of rankers."""
    rankers: int
    pods: int
    memory_bytes: int
    """Of all pods: tables as often as they are held, what hot rows are found by, and what a process takes beside."""
    cost: float
    """Of all pods, in the unit of the prices."""


def needs_of(placement: Placement, costs: CostModel) -> Needs:
    """Return what a placement takes. A singular one spares the calls and their messages."""
    parts, candidates = placement.parts, placement.parts.statistics.candidates_mean
    own_s = costs.ranker_cpu_s(_work(np.zeros(1)), candidates)
    if placement.is_singular:
        lookups_s = float(costs.shard_cpu_s(without_messages(parts.work)).sum())
        return Needs(np.zeros(0), np.zeros(0), own_s + lookups_s, float(parts.size_bytes.sum()))
    nets_S = np.zeros(placement.num_shards)
    for nets in (("user", "both"), ("item", "both")):
        has_net = np.array([table.net in nets for table in parts.statistics.tables])[parts.table]
        nets_S += np.bincount(placement.shard_of, has_net, placement.num_shards) > 0
    calls = _work(nets_S)
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
    """Return the fewest servers that the demand keeps no busier, in the mean, than `utilisation`.

    Where the load is not known, as many as the least number of replicas.
    """
    replicas = shard_servers(needs.shard_cpu_s, config, costs, utilisation=utilisation).tolist()
    rankers = num_rankers(needs.ranker_cpu_s, config, costs, utilisation=utilisation)
    return priced(needs, replicas, rankers, config)


def priced(needs: Needs, replicas: Sequence[int], rankers: int, config: ShardingConfig) -> Fleet:
    """Return so many servers of each shard, and rankers, with what they cost."""
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


def shard_servers(cpu_s: Floats, config: ShardingConfig, costs: CostModel, *, utilisation: float) -> Integers:
    """Return the servers for shards whose calls take a warm server so much CPU time; shape of `cpu_s`."""
    return _servers(cooled_s(cpu_s, costs.shard_cold_us, config, costs, utilisation=utilisation), config, utilisation)


def num_rankers(cpu_s: float, config: ShardingConfig, costs: CostModel, *, utilisation: float) -> int:
    """Return the rankers for requests that take a warm one so much CPU time."""
    cooled = cooled_s(np.array(cpu_s), costs.ranker_cold_us, config, costs, utilisation=utilisation)
    return int(_servers(cooled, config, utilisation))


def cooled_s(warm_s: Floats, cold_us: float, config: ShardingConfig, costs: CostModel, *, utilisation: float) -> Floats:
    """Return the CPU time of a request at servers that are so busy, of which a cold one takes `cold_us` more.

    A server that gets a request every t seconds finds itself cold by 1 - exp(-t / cooling), and by less in the mean if
    they come less regularly (Jensen). With so many servers, n = rate * (warm + coldness(n) * cold) / utilisation, of
    which the right side is concave: Newton's steps come down to the solution from where all servers are cold.
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


def _servers(cpu_s: Floats, config: ShardingConfig, utilisation: float) -> Integers:
    wanted = np.ceil(config.demand.requests_per_s * cpu_s / utilisation * (1 - ROUNDING))
    return np.maximum(config.demand.min_replicas, wanted).astype(np.int64)


def call_cpu_s(costs: CostModel) -> tuple[float, float]:
    """Return the CPU time of a call without a lookup in it, for one net: at the shard, and at the ranker."""
    call = _work(np.ones(1))
    return float(costs.shard_cpu_s(call)[0]), costs.ranker_cpu_s(call, 0) - costs.ranker_cpu_s(_work(np.zeros(1)), 0)


def without_messages(work: ShardWork) -> ShardWork:
    """Return the same lookups, done by who wants them."""
    none = np.zeros_like(work.bags)
    return replace(work, request_share=none, nets=none, request_bytes=none, answer_bytes=none)


def _work(nets_S: Floats) -> ShardWork:
    """Return calls without a lookup in them: one to each shard that has a net."""
    none = {name: np.zeros_like(nets_S) for name in ShardWork.__dataclass_fields__}
    return ShardWork(**none | {"request_share": np.minimum(nets_S, 1), "nets": nets_S})
