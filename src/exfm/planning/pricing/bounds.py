"""How little a plan can cost: a number that no plan goes below, whoever finds it.

Legend: N numbers of shards, T tables.
"""

import math

import numpy as np
import numpy.typing as npt

from exfm.planning.config import MAX_SHARDS, ShardingConfig
from exfm.planning.placing.bounds import Bound
from exfm.planning.placing.parts import Parts, idle_parts, pieces_within
from exfm.planning.pricing.costs import CostModel
from exfm.planning.pricing.fleet import call_cpu_s, cooled_s
from exfm.planning.sizes import bytes_text
from exfm.planning.statistics import Statistics, TableStatistics

Floats = npt.NDArray[np.float64]

ROUNDING = 1e-9
"""Share by which sums in another order may differ."""


def least_cost(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Bound:
    """Return a lower bound of what any plan's servers cost under the demand, its latency objective left out.

    It is that of the cheapest number of shards, among those that have room for all bytes. Each shard is called, and
    each table is in as few parts as it must be: work for so many rankers and servers. Of a table there are as many
    copies as a call with it and no key wants servers, and of all together as many as `_root` tells, or more.
    A singular plan, which makes no calls, may cost less.

    Raises: PlanError if a row of a table is larger than a shard.
    """
    demand, prices = config.demand, config.prices
    encoding = config.encoding
    pieces = pieces_within(statistics, config.capacity_bytes, encoding)
    parts = Parts.divide(statistics, costs, encoding=encoding, pieces=pieces, hot_rows=np.zeros_like(pieces))
    ones = np.ones_like(pieces)
    whole = Parts.divide(statistics, costs, encoding=encoding, pieces=ones, hot_rows=0 * ones)
    idle_T, total_bytes = idle_parts(statistics, costs, encoding).cpu_s, int(whole.size_bytes.sum())
    fewest = -(-total_bytes // config.capacity_bytes)
    shards_N = np.arange(fewest, max(fewest, MAX_SHARDS) + 1)
    warm_call_s, call_at_ranker_s = call_cpu_s(costs)
    busy = demand.max_utilisation
    # The more a shard works, the more servers it has and the colder they are: none adds less than one with no lookup.
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
    best = int(cost_N.argmin())
    rankers, shard_servers, num_shards = (int(numbers[best]) for numbers in (rankers_N, servers_N, shards_N))
    return Bound(
        float(cost_N[best]),
        f"{_count(rankers, 'ranker')}, {_count(shard_servers, 'server')} of {_count(num_shards, 'shard')}, "
        f"{bytes_text(int(held_bytes_N[best]))} of tables",
    )


def _root(table: TableStatistics, size_bytes: int, idle_s: float, keys_s: float) -> float:
    """Return the least sum, over the slices of a table, of the roots of each one's CPU time times its bytes.

    A shard has servers in proportion to its CPU time, and each of them holds its bytes: the product of the two, which
    is at least the square of the sum of these roots over its slices (Cauchy and Schwarz). All shards together hold at
    least that square of the sum over all slices, divided by the number of shards (the same, once more).

    A slice takes the CPU time of the table without a key, and its share of the time for keys. So ranges of rows have no
    smaller sum than the whole table. Copies of hot rows may have: whatever their number, between two counted ones, they
    take at least the bytes of the fewer and leave at least the keys that the more leave.
    """
    counted = [(point.num_rows, point.mass) for point in table.skew if point.mass > 0]
    whole = math.sqrt((idle_s + keys_s) * size_bytes)
    if not counted:  # all rows are wanted alike, and a copy of some is like a range of them that adds bytes
        return whole
    return min(
        whole,
        *(
            math.sqrt((idle_s + (1 - most_mass) * keys_s) * size_bytes)
            + math.sqrt((idle_s + mass * keys_s) * size_bytes * rows / table.rows)
            for (rows, mass), (_, most_mass) in zip([(0, 0.0), *counted], [*counted, (table.rows, 1.0)], strict=True)
        ),
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number > 1)}"
