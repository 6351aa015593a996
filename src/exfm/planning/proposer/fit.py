"""Whether tables fit the shards of a strategy, by their sizes alone: no search, no costs.

Legend: T tables, P parts.
"""

import numpy as np

from exfm.artifact.plan import ALIGNMENT_BYTES
from exfm.errors import PlanError
from exfm.planning.arrays import Booleans, Integers
from exfm.planning.config import MAX_SHARDS, ShardingConfig, Strategy
from exfm.planning.enumerator import fewest_pieces, row_bytes_of, row_ranges, stored_bytes
from exfm.planning.partitioner.bounds import bottleneck_bound, bound_with_splits
from exfm.planning.sizes import bytes_text
from exfm.planning.statistics import Statistics

TOLERANCE = 1e-11
"""Share by which a bound may exceed the memory of a shard, for the rounding of floats."""


def check_fit(strategy: Strategy, statistics: Statistics, config: ShardingConfig) -> None:
    """Check that the tables fit the shards of a strategy, as far as sizes and counts show.

    If shards are nearly full, the strategy's search may still find no placement.

    Raises: PlanError, with the sizes and what to do.
    """
    if strategy == "auto":
        _check_most_shards(statistics, config)
    elif strategy in ("singular", "one-shard"):
        _check_one_shard(strategy, statistics, config)
    else:
        _check_shards(strategy, statistics, config)


def users_tables(statistics: Statistics) -> Booleans:
    """Return which tables only user features look up; shape [T]."""
    return np.array([table.net == "user" for table in statistics.tables])


def bounds_by_division(statistics: Statistics, config: ShardingConfig) -> dict[int, float]:
    """Return a lower bound of the fullest shard's bytes for each number of shards that the user net may get.

    A net whose tables are all whole has at most one shard per table; a net with a split table may have any number.
    """
    fewest, is_user = fewest_pieces(statistics, config), users_tables(statistics)
    sizes_T = _part_bytes(statistics, config, np.ones_like(fewest)).astype(np.float64)

    def bound(is_member: Booleans, num_shards: int) -> float:
        return bound_with_splits(sizes_T[is_member & (fewest == 1)], float(sizes_T[is_member].sum()), num_shards)

    def most(is_member: Booleans) -> int:
        return config.num_shards - 1 if (fewest[is_member] > 1).any() else int(is_member.sum())

    divisions = range(max(1, config.num_shards - most(~is_user)), min(most(is_user), config.num_shards - 1) + 1)
    return {
        num_user: max(bound(is_user, num_user), bound(~is_user, config.num_shards - num_user)) for num_user in divisions
    }


def not_placed(strategy: Strategy, statistics: Statistics, config: ShardingConfig) -> PlanError:
    """Return the error of a strategy that finds no placement within the shards' memory."""
    parts_P = _part_bytes(statistics, config, fewest_pieces(statistics, config))
    used = parts_P.sum() / (config.num_shards * config.capacity_bytes)
    return PlanError(
        f"{strategy}: no placement was found for {len(parts_P)} parts of {len(statistics.tables)} tables, the largest "
        f"{bytes_text(int(parts_P.max()))}, on {config.num_shards} shards of {bytes_text(config.capacity_bytes)}; the "
        f"parts take {used:.1%} of that; raise num_shards or shard_memory_gib"
    )


def _check_one_shard(strategy: Strategy, statistics: Statistics, config: ShardingConfig) -> None:
    total_bytes = int(_part_bytes(statistics, config, np.ones(len(statistics.tables), dtype=np.int64)).sum())
    if total_bytes > config.capacity_bytes:
        raise PlanError(
            f"{strategy}: all tables take {bytes_text(total_bytes)}, but a shard has "
            f"{bytes_text(config.capacity_bytes)}; raise shard_memory_gib, or choose a strategy with more shards"
        )


def _check_most_shards(statistics: Statistics, config: ShardingConfig) -> None:
    """Check the tables against as many shards as a plan may have."""
    total_bytes = statistics.size_bytes(config.encoding)
    if total_bytes > MAX_SHARDS * config.capacity_bytes:
        raise PlanError(
            f"{len(statistics.tables)} tables take {bytes_text(total_bytes)}, which is at least "
            f"{-(-total_bytes // config.capacity_bytes):,} shards of {bytes_text(config.capacity_bytes)} "
            f"(shard_memory_gib {config.shard_memory_gib:g}), but a plan has at most {MAX_SHARDS}; raise "
            "shard_memory_gib"
        )
    fewest_pieces(statistics, config)


def _check_shards(strategy: Strategy, statistics: Statistics, config: ShardingConfig) -> None:
    """Check the tables against `num_shards` shards."""
    is_user = users_tables(statistics)
    by_net = strategy == "nsbp" and is_user.any() and not is_user.all()
    if by_net and config.num_shards == 1:
        raise PlanError("nsbp: 2 nets need at least 1 shard each, but there is 1; raise num_shards")
    _check_room(statistics, config)
    fewest = fewest_pieces(statistics, config)
    if config.num_shards > fewest.sum():
        raise PlanError(
            f"{strategy}: {config.num_shards} shards for {fewest.sum()} tables; lower num_shards to at most one shard "
            "per table"
        )
    if by_net:
        _check_division(statistics, config)
    sizes_P = _part_bytes(statistics, config, fewest).astype(np.float64)
    room_bytes = config.capacity_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES
    if fewest.max() == 1 and bottleneck_bound(sizes_P, config.num_shards) > room_bytes * (1 + TOLERANCE):
        raise not_placed(strategy, statistics, config)


def _check_room(statistics: Statistics, config: ShardingConfig) -> None:
    together_bytes, total_bytes = config.num_shards * config.capacity_bytes, statistics.size_bytes(config.encoding)
    if total_bytes > together_bytes:
        largest = max(statistics.tables, key=lambda table: table.size_bytes(config.encoding))
        raise PlanError(
            f"{len(statistics.tables)} tables take {bytes_text(total_bytes)}, of which {largest.name!r} takes "
            f"{bytes_text(largest.size_bytes(config.encoding))}, but {config.num_shards} shards of "
            f"{bytes_text(config.capacity_bytes)} have {bytes_text(together_bytes)} together; raise num_shards or "
            "shard_memory_gib"
        )


def _check_division(statistics: Statistics, config: ShardingConfig) -> None:
    """Check that some division of the shards between the nets has room for both."""
    bounds = bounds_by_division(statistics, config)
    if min(bounds.values()) <= config.capacity_bytes:
        return
    fewest, is_user = fewest_pieces(statistics, config), users_tables(statistics)
    users, items = (
        int(_part_bytes(statistics, config, np.where(is_member, fewest, 0)).sum()) for is_member in (is_user, ~is_user)
    )
    raise PlanError(
        f"nsbp: the user net's tables take {bytes_text(users)} as stored, the item net's {bytes_text(items)}; no "
        f"division of {config.num_shards} shards of {bytes_text(config.capacity_bytes)} between the nets has room for "
        "both; raise num_shards or shard_memory_gib"
    )


def _part_bytes(statistics: Statistics, config: ShardingConfig, pieces: Integers) -> Integers:
    """Return the bytes as stored of each part, if each table has `pieces` [T] parts; shape [P]."""
    table, _, num_rows = row_ranges(statistics, pieces)
    return stored_bytes(num_rows * row_bytes_of(statistics, config.encoding)[table])
