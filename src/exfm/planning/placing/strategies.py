"""The strategies that need no load: where each part goes, and how near the best possible that is.

Source: Lui et al., arXiv:2011.02084, which compares a model on one server with tables placed by capacity, by pooling
work and by net. Theirs place greedily; these search (`exfm.planning.placing.packing`).
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from exfm.errors import PlanError
from exfm.planning.config import MAX_SHARDS, ShardingConfig
from exfm.planning.placing.bounds import Bound, bound_with_splits
from exfm.planning.placing.layouts import Task, lay_out
from exfm.planning.placing.parts import Parts
from exfm.planning.placing.placement import Placement, bottleneck_of
from exfm.planning.pricing.costs import CostModel
from exfm.planning.sizes import bytes_text
from exfm.planning.statistics import Statistics

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

NUM_DIVISIONS = 3
"""Of the shards among the nets that are tried, those of lowest bound."""


def place_on_one(strategy: str, statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return all tables on one shard.

    Raises: PlanError if it has no room for them.
    """
    ones = np.ones(len(statistics.tables), dtype=np.int64)
    parts = Parts.divide(statistics, costs, encoding=config.encoding, pieces=ones, hot_rows=0 * ones)
    total_bytes = int(parts.size_bytes.sum())
    if total_bytes > config.capacity_bytes:
        raise PlanError(
            f"{strategy}: all tables take {bytes_text(total_bytes)}, a shard holds "
            f"{bytes_text(config.capacity_bytes)}; raise shard_memory_gib, or take a strategy with more shards"
        )
    return Placement(strategy, parts, np.zeros(len(parts), dtype=np.int64), 1)


def place_by_capacity(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return a placement whose fullest shard holds as few bytes as was found.

    Raises: PlanError if the tables do not fit, or are fewer than the shards.
    """
    return _place_evenly("capacity-balanced", statistics, config, costs, balances="bytes")


def place_by_load(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return a placement whose busiest shard works as little as was found.

    Raises: PlanError if the tables do not fit, or are fewer than the shards.
    """
    return _place_evenly("load-balanced", statistics, config, costs, balances="work")


def place_by_net(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return a placement whose shards have tables of one net each; the fullest holds as few bytes as was found.

    A table that both nets use counts as items': they look it up once a candidate.

    Raises: PlanError if the tables do not fit, or there are fewer tables than shards, or fewer shards than nets.
    """
    name = "nsbp"
    is_user = np.array([table.net == "user" for table in statistics.tables])
    if is_user.all() or not is_user.any():
        return _place_evenly(name, statistics, config, costs, balances="bytes")
    if config.num_shards == 1:
        raise PlanError("nsbp: 2 nets want a shard each at least, but there is 1; raise num_shards")
    check_room(statistics, config)
    whole = Task(statistics, costs, config, np.ones_like(is_user), config.num_shards, "bytes")
    _check_parts(name, whole)
    bounds = _bounds_by_division(whole, is_user)
    by_bound = sorted(bounds, key=lambda num_user: (bounds[num_user].value, num_user))
    if bounds[by_bound[0]].value > config.capacity_bytes:
        parts = whole.divide(whole.fewest_pieces())
        users, items = (int(parts.size_bytes[mask].sum()) for mask in (parts.is_user, ~parts.is_user))
        raise PlanError(
            f"nsbp: users' tables take {bytes_text(users)} as laid out, items' {bytes_text(items)}; however "
            f"{config.num_shards} shards of {bytes_text(config.capacity_bytes)} are divided among the nets, one has "
            "too little; raise num_shards or shard_memory_gib"
        )
    fewest = whole.fewest_pieces()
    parts_of_users, parts_of_items = int(fewest[is_user].sum()), int(fewest[~is_user].sum())
    # Where a net has more shards than parts, only finer ones leave none empty: other divisions are tried as well.
    sure = [n for n in by_bound if config.num_shards - parts_of_items <= n <= parts_of_users]
    found: list[Placement] = []
    for num_user in dict.fromkeys([*by_bound[:NUM_DIVISIONS], *sure[:NUM_DIVISIONS]]):
        of_users = lay_out(Task(statistics, costs, config, is_user, num_user, "bytes"))
        of_items = lay_out(Task(statistics, costs, config, ~is_user, config.num_shards - num_user, "bytes"))
        if not of_users or not of_items:
            continue
        parts = Parts.join(of_users.parts, of_items.parts, costs)
        shard_of = np.concatenate([of_users.shard_of, of_items.shard_of + num_user])
        if len(np.unique(shard_of)) == config.num_shards:
            found.append(Placement(name, parts, shard_of, config.num_shards, "bytes", bounds[by_bound[0]]))
            if fewest.max() == 1:
                break  # the bound of whole tables is near what is found, so the first is the best
    if not found:
        raise _no_room(name, whole)
    return min(found, key=bottleneck_of)


def check_room(statistics: Statistics, config: ShardingConfig) -> None:
    """Return if the shards together have room for the tables, and each for a table that may not be split.

    Raises: PlanError, with the bytes.
    """
    together_bytes = config.num_shards * config.capacity_bytes
    shards = f"{config.num_shards} shards of {bytes_text(config.capacity_bytes)}"
    for table in statistics.tables:
        size_bytes = table.size_bytes(config.encoding)
        if size_bytes > together_bytes:
            raise PlanError(
                f"table {table.name!r} takes {bytes_text(size_bytes)}, but {shards} hold "
                f"{bytes_text(together_bytes)} together; raise num_shards or shard_memory_gib"
            )
    _check_whole(statistics, config)
    total_bytes = statistics.size_bytes(config.encoding)
    if total_bytes > together_bytes:
        raise PlanError(
            f"{len(statistics.tables)} tables take {bytes_text(total_bytes)}, but {shards} hold "
            f"{bytes_text(together_bytes)} together; raise num_shards or shard_memory_gib"
        )


def check_most_room(statistics: Statistics, config: ShardingConfig) -> None:
    """Return if as many shards as a plan may have hold the tables, and each one that may not be split.

    Raises: PlanError, with the bytes.
    """
    _check_whole(statistics, config)
    total_bytes = statistics.size_bytes(config.encoding)
    if total_bytes > MAX_SHARDS * config.capacity_bytes:
        raise PlanError(
            f"{len(statistics.tables)} tables take {bytes_text(total_bytes)}, which want "
            f"{-(-total_bytes // config.capacity_bytes):,} shards of {bytes_text(config.capacity_bytes)} "
            f"(shard_memory_gib {config.shard_memory_gib:g}) at least; a plan has {MAX_SHARDS} at most: raise "
            "shard_memory_gib"
        )


def _check_whole(statistics: Statistics, config: ShardingConfig) -> None:
    if config.split_rows:
        return
    for table in statistics.tables:
        size_bytes = table.size_bytes(config.encoding)
        if size_bytes > config.capacity_bytes:
            raise PlanError(
                f"table {table.name!r} takes {bytes_text(size_bytes)}, a shard holds "
                f"{bytes_text(config.capacity_bytes)}; raise shard_memory_gib, or set split_rows"
            )


def _place_evenly(
    strategy: str,
    statistics: Statistics,
    config: ShardingConfig,
    costs: CostModel,
    *,
    balances: Literal["bytes", "work"],
) -> Placement:
    check_room(statistics, config)
    everyone = np.ones(len(statistics.tables), dtype=np.bool_)
    task = Task(statistics, costs, config, everyone, config.num_shards, balances)
    _check_parts(strategy, task)
    layout = lay_out(task)
    if not layout:
        raise _no_room(strategy, task)
    return Placement(strategy, layout.parts, layout.shard_of, config.num_shards, balances, layout.bound)


def _bounds_by_division(task: Task, is_user: Booleans) -> dict[int, Bound]:
    """Return what no placement goes below, by the number of shards for users' tables, however tables are split.

    A net whose tables are whole has no more shards than tables; one with a table that is split may have any number.
    """
    fewest = task.fewest_pieces()
    sizes_T = task.divide(np.ones_like(fewest)).size_bytes.astype(np.float64)

    def bound(is_member: Booleans, num_shards: int) -> Bound:
        return bound_with_splits(sizes_T[is_member & (fewest == 1)], float(sizes_T[is_member].sum()), num_shards)

    def most(is_member: Booleans) -> int:
        return task.num_shards - 1 if (fewest[is_member] > 1).any() else int(is_member.sum())

    divisions = range(max(1, task.num_shards - most(~is_user)), min(most(is_user), task.num_shards - 1) + 1)
    return {
        num_user: max(
            bound(is_user, num_user), bound(~is_user, task.num_shards - num_user), key=lambda bound: bound.value
        )
        for num_user in divisions
    }


def _check_parts(strategy: str, task: Task) -> None:
    num_parts = int(task.fewest_pieces().sum())
    if task.num_shards > num_parts:
        raise PlanError(f"{strategy}: {task.num_shards} shards for {num_parts} tables; take at most one shard a table")


def _no_room(strategy: str, task: Task) -> PlanError:
    parts = task.divide(task.fewest_pieces())
    capacity_bytes = task.config.capacity_bytes
    used = parts.size_bytes.sum() / (task.num_shards * capacity_bytes)
    return PlanError(
        f"{strategy}: no way was found to place {len(parts)} parts of {len(task.statistics.tables)} tables, the "
        f"largest {bytes_text(int(parts.size_bytes.max()))}, on {task.num_shards} shards of "
        f"{bytes_text(capacity_bytes)}, of which they take {used:.1%}; raise num_shards or shard_memory_gib"
    )
