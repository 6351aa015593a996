"""The strategies that need no load: where each part goes, and how near the best possible that is.

Source: Lui et al., arXiv:2011.02084, which compares a model on one server with tables placed by capacity, by pooling
work and by net. Theirs place greedily; these search (`exfm.sharding.packing`).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from exfm.errors import PlanError
from exfm.sharding.bounds import bottleneck_bound
from exfm.sharding.config import ShardingConfig
from exfm.sharding.costs import CostModel
from exfm.sharding.packing import pack
from exfm.sharding.parts import Parts, pieces_within
from exfm.sharding.placement import Placement, bottleneck_of
from exfm.sharding.sizes import bytes_text
from exfm.sharding.statistics import Statistics

Integers = npt.NDArray[np.int64]


NUM_DIVISIONS = 3
"""Of the shards among the nets that are tried, those of lowest bound."""


def place_on_one(strategy: str, statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return all tables on one shard.

    Raises: PlanError if it has no room for them.
    """
    parts = whole_tables(statistics, costs)
    total_bytes = int(parts.size_bytes.sum())
    if total_bytes > config.capacity_bytes:
        raise PlanError(
            f"{strategy}: all tables take {bytes_text(total_bytes)}, a shard holds "
            f"{bytes_text(config.capacity_bytes)}; raise shard_memory_gib, or take a strategy with more shards"
        )
    return Placement(strategy, parts, np.zeros(len(parts), dtype=np.int64), 1)


def place_by_capacity(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return a placement whose fullest shard holds as few bytes as was found.

    Raises: PlanError, as `packed`.
    """
    name = "capacity-balanced"
    return packed(name, statistics, config, costs, lambda parts: _balance(name, parts, config, balances="bytes"))


def place_by_load(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return a placement whose busiest shard works as little as was found.

    Raises: PlanError, as `packed`.
    """
    name = "load-balanced"
    return packed(name, statistics, config, costs, lambda parts: _balance(name, parts, config, balances="work"))


def place_by_net(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return a placement whose shards have tables of one net each; the fullest holds as few bytes as was found.

    A table that both nets use counts as items': they look it up once a candidate.

    Raises: PlanError, as `packed`, or if there are fewer shards than nets.
    """
    return packed("nsbp", statistics, config, costs, lambda parts: _balance_by_net(parts, config))


def whole_tables(statistics: Statistics, costs: CostModel) -> Parts:
    """Return each table as one part."""
    num_tables = len(statistics.tables)
    ones = np.ones(num_tables, dtype=np.int64)
    return Parts.divide(statistics, costs, pieces=ones, hot_rows=0 * ones)


def packed(
    strategy: str,
    statistics: Statistics,
    config: ShardingConfig,
    costs: CostModel,
    balance: Callable[[Parts], Placement | None],
) -> Placement:
    """Return the better that `balance` makes of the tables in the first two `divisions`, or what it makes of the next.

    Raises: PlanError if the tables do not fit, or are fewer than the shards.
    """
    check_room(statistics, config)
    best: Placement | None = None
    for rank, pieces in enumerate(divisions(statistics, config)):
        parts = Parts.divide(statistics, costs, pieces=pieces, hot_rows=np.zeros_like(pieces))
        if config.num_shards > len(parts):
            raise PlanError(
                f"{strategy}: {config.num_shards} shards for {len(parts)} tables; take at most one shard a table"
            )
        placement = balance(parts)
        if placement and (not best or bottleneck_of(placement) < bottleneck_of(best)):
            best = placement
        if best and (pieces.max() == 1 or rank >= 1):
            break  # where no table must be split, none is split only to even out
    if best:
        return best
    used = parts.size_bytes.sum() / (config.num_shards * config.capacity_bytes)
    raise PlanError(
        f"{strategy}: no way was found to place {len(parts)} parts of {len(statistics.tables)} tables, the largest "
        f"{bytes_text(int(parts.size_bytes.max()))}, on {config.num_shards} shards of "
        f"{bytes_text(config.capacity_bytes)}, of which they take {used:.1%}; raise num_shards or shard_memory_gib"
    )


def divisions(statistics: Statistics, config: ShardingConfig) -> list[Integers]:
    """Return in how many parts each table may be, coarsest first: each part costs lookups. Shape [T] each.

    A table over a shard's memory is in as few parts as fit, or in as many on each shard. Where that finds no room, all
    tables are in twice as few as fit, or four times.
    """
    fewest = pieces_within(statistics, config.capacity_bytes)
    if not config.split_rows:
        return [np.ones_like(fewest)]
    rows = np.array([table.rows for table in statistics.tables])
    even = np.where(fewest > 1, -(-fewest // config.num_shards) * config.num_shards, 1)
    return [fewest, *(np.minimum(pieces, rows) for pieces in (even, 2 * fewest, 4 * fewest))]


def check_room(statistics: Statistics, config: ShardingConfig) -> None:
    """Return if the shards together have room for the tables, and each for a table that may not be split.

    Raises: PlanError, with the bytes.
    """
    together_bytes = config.num_shards * config.capacity_bytes
    shards = f"{config.num_shards} shards of {bytes_text(config.capacity_bytes)}"
    for table in statistics.tables:
        if table.size_bytes > together_bytes:
            raise PlanError(
                f"table {table.name!r} takes {bytes_text(table.size_bytes)}, but {shards} hold "
                f"{bytes_text(together_bytes)} together; raise num_shards or shard_memory_gib"
            )
        if table.size_bytes > config.capacity_bytes and not config.split_rows:
            raise PlanError(
                f"table {table.name!r} takes {bytes_text(table.size_bytes)}, a shard holds "
                f"{bytes_text(config.capacity_bytes)}; raise shard_memory_gib, or set split_rows"
            )
    total_bytes = sum(table.size_bytes for table in statistics.tables)
    if total_bytes > together_bytes:
        raise PlanError(
            f"{len(statistics.tables)} tables take {bytes_text(total_bytes)}, but {shards} hold "
            f"{bytes_text(together_bytes)} together; raise num_shards or shard_memory_gib"
        )


def _balance(
    strategy: str, parts: Parts, config: ShardingConfig, *, balances: Literal["bytes", "work"]
) -> Placement | None:
    weights = parts.cpu_s if balances == "work" else parts.size_bytes.astype(np.float64)
    packing = pack(weights, parts.size_bytes, num_shards=config.num_shards, capacity_bytes=config.capacity_bytes)
    if not packing:
        return None
    return Placement(strategy, parts, packing.shard_of, config.num_shards, balances, packing.bound)


def _balance_by_net(parts: Parts, config: ShardingConfig) -> Placement | None:
    groups = [np.flatnonzero(mask) for mask in (parts.is_user, ~parts.is_user) if mask.any()]
    if len(groups) == 1:
        return _balance("nsbp", parts, config, balances="bytes")
    if config.num_shards < len(groups):
        raise PlanError(f"nsbp: 2 nets want a shard each at least, but there is {config.num_shards}; raise num_shards")
    first, second = groups
    sizes = parts.size_bytes.astype(np.float64)
    fewest = max(1, config.num_shards - len(second))
    bounds = {
        num_first: max(
            bottleneck_bound(sizes[first], num_first),
            bottleneck_bound(sizes[second], config.num_shards - num_first),
            key=lambda bound: bound.value,
        )
        for num_first in range(fewest, min(len(first), config.num_shards - 1) + 1)
    }
    by_bound = sorted(bounds, key=lambda num_first: (bounds[num_first].value, num_first))
    for num_first in by_bound[:NUM_DIVISIONS]:
        packings = [
            pack(sizes[group], parts.size_bytes[group], num_shards=num, capacity_bytes=config.capacity_bytes)
            for group, num in ((first, num_first), (second, config.num_shards - num_first))
        ]
        if packings[0] and packings[1]:
            shard_of = np.empty(len(parts), dtype=np.int64)
            shard_of[first] = packings[0].shard_of
            shard_of[second] = packings[1].shard_of + num_first
            return Placement("nsbp", parts, shard_of, config.num_shards, "bytes", bounds[by_bound[0]])
    return None
