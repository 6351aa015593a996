"""The placements that `auto` chooses from."""

import math
from collections.abc import Mapping

from exfm.planning.config import MAX_SHARDS, ShardingConfig, Strategy
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.placement import Placement
from exfm.planning.proposer.density import placements_by_density
from exfm.planning.proposer.strategies import place_by_each_strategy
from exfm.planning.statistics import Statistics

EVEN: tuple[Strategy, ...] = ("capacity-balanced", "load-balanced")

FILL, SHARD_FACTORS = 0.9, (1, 2, 4)
"""Numbers of shards that `auto` tries: these multiples of the fewest shards that hold the tables at this fill."""


def placements_for_auto(
    found: Mapping[Strategy, Placement], statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> list[Placement]:
    """Return the strategies' placements, those by density, and with a latency limit those on other numbers of shards.

    Singular ones are left out, because `exfm deploy` cannot roll them out yet.

    Raises: PlanError if a row of a table is larger than a shard.
    """
    deployable = [placement for placement in found.values() if not placement.is_singular]
    placements = [*deployable, *placements_by_density(statistics, config, costs)]
    total_bytes = statistics.size_bytes(config.encoding)
    fewest = math.ceil(total_bytes / (FILL * config.capacity_bytes))
    for factor in SHARD_FACTORS if config.demand.p99_ms else ():
        other = config.model_copy(update={"num_shards": factor * fewest})
        if other.num_shards <= MAX_SHARDS and other.num_shards != config.num_shards:
            placed, _ = place_by_each_strategy(statistics, other, costs)
            placements += [placed[name] for name in EVEN if name in placed]
    return [placement for placement in placements if placement.num_shards <= MAX_SHARDS]
