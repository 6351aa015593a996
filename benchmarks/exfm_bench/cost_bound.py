"""A lower bound of the cost of any plan with shard servers.

Legend: N numbers of shards, T tables.
"""

import math

import numpy as np
import numpy.typing as npt

from exfm.planning.arrays import Floats
from exfm.planning.config import MAX_SHARDS, ShardingConfig
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.enumerator import Parts, fewest_pieces, idle_parts
from exfm.planning.statistics import Statistics, TableStatistics
from exfm.planning.topology import call_cpu_s, cooled_s

ROUNDING = 1e-9
"""Share by which sums of floats in another order may differ."""


def least_cost(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> float:
    """Return a lower bound of the cost of any plan's servers under the demand, without its latency limit.

    It is the minimum over all numbers of shards with room for all bytes. Each shard is called, and each table has the
    fewest possible parts; that work needs a number of rankers and servers. The memory for tables is at least that of
    the servers which calls without keys need, and at least what `_root` gives. A singular plan may cost less, because
    it makes no calls.

    Raises: PlanError if a row of a table is larger than a shard.
    """
    demand, prices = config.demand, config.prices
    encoding = config.encoding
    pieces = fewest_pieces(statistics, config)
    parts = Parts.divide(statistics, costs, encoding=encoding, pieces=pieces, hot_rows=0)
    ones = np.ones_like(pieces)
    whole = Parts.divide(statistics, costs, encoding=encoding, pieces=ones, hot_rows=0)
    idle_T, total_bytes = idle_parts(statistics, costs, encoding).cpu_s, int(whole.size_bytes.sum())
    fewest = -(-total_bytes // config.capacity_bytes)
    shards_N = np.arange(fewest, max(fewest, MAX_SHARDS) + 1)
    warm_call_s, call_at_ranker_s = call_cpu_s(costs)
    busy = demand.max_utilisation
    # A busier shard has more servers, and those are colder. So a call without lookups has the lowest extra time.
    call_s = float(cooled_s(np.array(warm_call_s), costs.shard_cold_us, config, costs, utilisation=busy))
    own_s = 1e-6 * (costs.ranker_request_us + statistics.candidates_mean * costs.ranker_candidate_us)
    servers_per_cpu_s = demand.requests_per_s / busy * (1 - ROUNDING)

    def servers(cpu_s: Floats, *, least: int | npt.NDArray[np.int64]) -> Floats:
        return np.maximum(least, np.ceil(servers_per_cpu_s * cpu_s))

    least = demand.min_replicas
    at_ranker_s_N = own_s + parts.ranker_cpu_s.sum() + shards_N * call_at_ranker_s
    rankers_N = servers(cooled_s(at_ranker_s_N, costs.ranker_cold_us, config, costs, utilisation=busy), least=least)
    servers_N = servers(parts.cpu_s.sum() + shards_N * call_s, least=least * shards_N)
    roots = sum(
        map(_root, statistics.tables, whole.size_bytes.tolist(), idle_T.tolist(), (whole.cpu_s - idle_T).tolist())
    )
    held_bytes_N = np.maximum(
        servers_per_cpu_s * (call_s * total_bytes + roots**2 / shards_N),
        whole.size_bytes @ servers(idle_T + call_s, least=least),
    )
    pod_cost = prices.core + prices.overhead_gib * prices.gib
    cost_N = (rankers_N + servers_N) * pod_cost + held_bytes_N / 2**30 * prices.gib
    return float(cost_N.min())


def _root(table: TableStatistics, size_bytes: int, idle_s: float, keys_s: float) -> float:
    """Return the minimum, over all ways to slice a table, of the sum of sqrt(CPU time * bytes) of its slices.

    A shard has servers in proportion to its CPU time, and each server holds the shard's bytes. The product of both is
    at least the square of the sum of these roots over the shard's slices (Cauchy-Schwarz). By the same inequality, all
    shards together hold at least the square of the sum over all slices, divided by the number of shards.

    Each slice has the table's fixed CPU time, and its share of the time for keys. So row ranges cannot lower the sum.
    Copies of hot rows can. A number of copied rows between two counted points takes at least the bytes of the lower
    point, and leaves at least the keys that the higher point leaves.
    """
    counted = [(point.num_rows, point.mass) for point in table.skew if point.mass > 0]
    whole = math.sqrt((idle_s + keys_s) * size_bytes)
    if not counted:  # all rows get equally many keys, so a copy of some adds bytes and saves nothing
        return whole
    return min(
        whole,
        *(
            math.sqrt((idle_s + (1 - most_mass) * keys_s) * size_bytes)
            + math.sqrt((idle_s + mass * keys_s) * size_bytes * rows / table.rows)
            for (rows, mass), (_, most_mass) in zip([(0, 0.0), *counted], [*counted, (table.rows, 1.0)], strict=True)
        ),
    )
