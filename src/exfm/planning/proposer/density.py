"""Placements by density for `auto`: parts in order of work per byte, cut into shards where that is cheapest.

Every server of a shard holds all bytes of the shard. So parts with much work per byte share shards that have many
servers, and the others share shards with few servers. Copies of a table's hottest rows do the same within a table.
Source: ElasticRec (arXiv:2406.06955), whose shards have their own numbers of servers, and which splits tables by how
often rows are accessed. The search is our own.

Legend: T tables, P parts.
"""

import numpy as np

from exfm.artifact.plan import ROW_SET_BYTES, row_bytes
from exfm.planning.arrays import Integers
from exfm.planning.config import ShardingConfig
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.enumerator import Parts, fewest_pieces, idle_parts
from exfm.planning.placement import Placement
from exfm.planning.proposer.fit import check_fit
from exfm.planning.statistics import Statistics
from exfm.planning.topology import call_cpu_s, fleet_of, needs_of, num_servers

SHARES = (1, 2, 4, 8, 16, 32)
"""Minimum numbers of shards over which a request's work is spread: 1 is cheapest, more have a lower latency."""


def placements_by_density(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> list[Placement]:
    """Return cheap placements, with and without copies of hot rows; with a latency limit, also on more shards.

    Raises: PlanError if the tables need more shards than a plan may have; or a row is larger than a shard, or a table
    that may not be split.
    """
    check_fit("auto", statistics, config)
    pieces = fewest_pieces(statistics, config)
    plain = Parts.divide(statistics, costs, encoding=config.encoding, pieces=pieces, hot_rows=0)
    found = []
    for share in SHARES if config.demand.p99_ms else SHARES[:1]:
        without = cut(plain, config, costs, most_cpu_s=float(plain.cpu_s.sum()) / share)
        found.append(without)
        if not config.demand.requests_per_s:
            continue
        hot_rows = rows_to_copy(without, config, costs)
        if hot_rows.any():
            parts = Parts.divide(statistics, costs, encoding=config.encoding, pieces=pieces, hot_rows=hot_rows)
            found.append(cut(parts, config, costs, most_cpu_s=float(parts.cpu_s.sum()) / share))
    return found


def cut(parts: Parts, config: ShardingConfig, costs: CostModel, *, most_cpu_s: float) -> Placement:
    """Return the cheapest shards that are runs of the parts, in descending order of CPU time per byte.

    A shard is within its memory. A shard of several parts has at most `most_cpu_s` of work per request. Dynamic
    programming: the cheapest cuts up to a part are the cheapest cuts up to an earlier part, and one more shard.
    """
    order = np.lexsort((np.arange(len(parts)), -parts.cpu_s / parts.size_bytes))
    ends_bytes = np.concatenate(([0], np.cumsum(parts.size_bytes[order])))
    ends_s = np.concatenate(([0.0], np.cumsum(parts.cpu_s[order])))
    demand, prices = config.demand, config.prices
    shard_call_s, ranker_call_s = call_cpu_s(costs)
    rate = demand.requests_per_s / demand.max_utilisation
    call_cost = rate * ranker_call_s * (prices.core + prices.overhead_gib * prices.gib)
    cheapest, start_of = np.zeros(len(parts) + 1), np.zeros(len(parts) + 1, dtype=np.int64)
    for end in range(1, len(parts) + 1):
        first = int(np.searchsorted(ends_bytes, ends_bytes[end] - config.capacity_bytes))
        first = max(first, int(np.searchsorted(ends_s, ends_s[end] - most_cpu_s * (1 + 1e-9))))
        starts = np.arange(min(first, end - 1), end)
        cpu_s = ends_s[end] - ends_s[starts] + shard_call_s
        replicas = num_servers(cpu_s, costs.shard_cold_us, config, costs, utilisation=demand.max_utilisation)
        gib = (ends_bytes[end] - ends_bytes[starts]) / 2**30 + prices.overhead_gib
        total = cheapest[starts] + replicas * (prices.core + gib * prices.gib) + call_cost
        best = int(total.argmin())
        cheapest[end], start_of[end] = total[best], starts[best]
    cuts, end = [], len(parts)
    while end:
        end = int(start_of[end])
        cuts.append(end)
    shard_of = np.empty(len(parts), dtype=np.int64)
    shard_of[order] = np.searchsorted(cuts[::-1], np.arange(len(parts)), side="right") - 1
    return Placement("auto", parts, shard_of, len(cuts))


def rows_to_copy(placement: Placement, config: ShardingConfig, costs: CostModel) -> Integers:
    """Return how many rows of each table to copy, 0 if a copy does not pay; shape [T].

    It is an estimate for each table by itself, of the memory saved against the CPU time added. With a copy, the table
    needs fewer servers, because it has less work; the copy needs all of them, and rankers need an index of its rows.
    The resulting placement gets its exact cost afterwards, as every placement does.
    """
    parts, demand, prices = placement.parts, config.demand, config.prices
    statistics = parts.statistics
    rate = demand.requests_per_s / demand.max_utilisation
    fleet = fleet_of(needs_of(placement, costs), config, costs, utilisation=demand.max_utilisation)
    num_tables = len(statistics.tables)
    replicas_T = np.zeros(num_tables)
    np.maximum.at(replicas_T, parts.table, np.array(fleet.replicas)[placement.shard_of])
    whole_s_T = np.bincount(parts.table, parts.cpu_s, num_tables)
    idle = idle_parts(statistics, costs, parts.encoding)
    added_cost_T = rate * (idle.cpu_s + idle.ranker_cpu_s) * (prices.core + prices.overhead_gib * prices.gib)
    chosen = np.zeros(num_tables, dtype=np.int64)
    for place, table in enumerate(statistics.tables):
        row_gib = row_bytes(table.dim, parts.encoding) / 2**30
        keys_share = 1 - idle.cpu_s[place] / whole_s_T[place]
        index_gib = (fleet.rankers + replicas_T[place]) * table.rows * ROW_SET_BYTES / 2**30
        most_saved = 0.0
        for point in table.skew:
            if point.num_rows >= table.rows or point.num_rows * row_gib * 2**30 > config.capacity_bytes:
                continue
            left = max(replicas_T[place] * (1 - point.mass * keys_share), demand.min_replicas)
            copied_gib = replicas_T[place] * row_gib * point.num_rows
            saved_gib = (replicas_T[place] - left) * table.rows * row_gib - copied_gib - index_gib
            saved = saved_gib * prices.gib - added_cost_T[place]
            if saved > most_saved:
                most_saved, chosen[place] = saved, point.num_rows
    return chosen
