"""Balanced layouts: tables on some shards, split by rows where they are larger than a shard.

Legend: T tables, P parts, S shards.
"""

from dataclasses import dataclass

import numpy as np

from exfm.artifact.plan import ALIGNMENT_BYTES
from exfm.planning.arrays import Booleans, Floats, Integers
from exfm.planning.config import ShardingConfig, Strategy
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.enumerator import Balances, Parts, fewest_pieces, idle_parts, row_bytes_of
from exfm.planning.partitioner.bounds import bound_with_splits
from exfm.planning.partitioner.packing import pack
from exfm.planning.placement import BALANCED, Placement, bottleneck_of
from exfm.planning.statistics import Statistics

FINER = (2, 4)
"""Factors of the fewest parts per table that are tried if the fewest parts found no placement."""

NUM_BISECTIONS = 60
"""Bisections to find the level that shards are filled to: enough for a float's last digit."""


@dataclass(frozen=True)
class Task:
    """Tables to lay out on some shards, by a strategy."""

    strategy: Strategy
    statistics: Statistics
    costs: CostModel
    config: ShardingConfig
    is_member: Booleans
    """Which tables to lay out; shape [T]."""
    num_shards: int

    @property
    def balances(self) -> Balances:
        """Return what the strategy balances over the shards."""
        return BALANCED[self.strategy]

    def fewest_pieces(self) -> Integers:
        """Return the fewest parts that each table must have, 0 for a table that is not a member; shape [T].

        Raises: PlanError if a row is larger than a shard.
        """
        return np.where(self.is_member, fewest_pieces(self.statistics, self.config), 0)

    def place(self, parts: Parts, shard_of: Integers, bound: float) -> Placement:
        """Return these parts on these shards; `bound` is for any way to split tables that are larger than a shard."""
        return Placement(self.strategy, parts, shard_of, self.num_shards, bound)

    def divide(self, pieces: Integers) -> Parts:
        """Return the members, divided into these numbers of parts."""
        return Parts.divide(self.statistics, self.costs, encoding=self.config.encoding, pieces=pieces, hot_rows=0)


def lay_out(task: Task) -> Placement | None:
    """Return the layout with the lower bottleneck: split tables in their fewest parts, or spread over all shards.

    If neither fits, smaller parts are tried. None: no layout was found.

    Raises: PlanError if a row is larger than a shard.
    """
    fewest = task.fewest_pieces()
    found = [_packed(task, fewest)]
    if (fewest > 1).any():
        found.append(_spread(task, fewest > 1))
        rows = np.array([table.rows for table in task.statistics.tables])
        for factor in FINER:
            if not any(found):
                found.append(_packed(task, np.minimum(factor * fewest, rows)))
    return min((layout for layout in found if layout), key=bottleneck_of, default=None)


def _packed(task: Task, pieces: Integers) -> Placement | None:
    parts = task.divide(pieces)
    packing = pack(
        parts.weights(task.balances),
        parts.size_bytes,
        num_shards=task.num_shards,
        capacity_bytes=task.config.capacity_bytes,
    )
    if not packing:
        return None
    bound = packing.bound if pieces.max() == 1 else _bound(task, pieces > 1)
    return task.place(parts, packing.shard_of, bound)


def _spread(task: Task, is_split: Booleans) -> Placement | None:
    """Return whole tables packed, and the rows of split ones spread over the lightest shards, up to a common level."""
    capacity_bytes = task.config.capacity_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES
    whole = task.divide(np.where(is_split, 0, task.is_member))
    shard_of = np.zeros(0, dtype=np.int64)
    if len(whole):
        packing = pack(
            whole.weights(task.balances), whole.size_bytes, num_shards=task.num_shards, capacity_bytes=capacity_bytes
        )
        if not packing:
            return None
        shard_of = packing.shard_of
    weight_S = np.bincount(shard_of, whole.weights(task.balances), task.num_shards).astype(np.float64)
    split = task.divide(is_split.astype(np.int64))
    row_bytes = row_bytes_of(task.statistics, task.config.encoding)[split.table]
    room_S = capacity_bytes - np.bincount(shard_of, whole.size_bytes, task.num_shards)
    room_S = np.maximum(room_S - (row_bytes + ALIGNMENT_BYTES).sum(), 0)  # rounding to rows and alignment may add this
    spread_bytes = float((split.num_rows * row_bytes).sum())
    if room_S.sum() < spread_bytes:
        return None
    weight = split.weights(task.balances).sum()
    if task.balances == "work":
        # every shard has the fixed cost of a slice, however many rows it gets
        weight -= idle_parts(task.statistics, task.costs, task.config.encoding).cpu_s[is_split].sum()
    share_S = _fill(weight_S, room_S, spread_bytes, weight / spread_bytes) / spread_bytes
    ends_SP = np.rint(np.cumsum(share_S)[:, None] * split.num_rows).astype(np.int64)
    starts_SP = np.concatenate([np.zeros_like(ends_SP[:1]), ends_SP[:-1]])
    shards, places = np.nonzero(ends_SP > starts_SP)
    parts = Parts.measure(
        task.statistics,
        task.costs,
        encoding=task.config.encoding,
        table=np.concatenate([whole.table, split.table[places]]),
        first_row=np.concatenate([whole.first_row, starts_SP[shards, places]]),
        num_rows=np.concatenate([whole.num_rows, (ends_SP - starts_SP)[shards, places]]),
        is_hot=np.zeros(len(whole) + len(shards), dtype=np.bool_),
    )
    return task.place(parts, np.concatenate([shard_of, shards]), _bound(task, is_split))


def _fill(weight_S: Floats, room_S: Floats, total: float, weight: float) -> Floats:
    """Return each shard's amount of `total`, at `weight` per unit, that makes the heaviest shard lightest."""
    if not weight:
        return np.asarray(room_S * total / room_S.sum(), dtype=np.float64)

    def up_to(level: float) -> Floats:
        return np.asarray(np.clip((level - weight_S) / weight, 0, room_S), dtype=np.float64)

    low, high = 0.0, float(weight_S.max() + weight * total)
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if up_to(middle).sum() >= total else (middle, high)
    filled = up_to(high)
    return np.asarray(filled * total / filled.sum(), dtype=np.float64)


def _bound(task: Task, is_split: Booleans) -> float:
    """Return the lower bound of any layout: the mean, or `bottleneck_bound` of the parts that every layout has.

    These are the whole tables, and for each split table its fewest slices, each with the fixed cost of a lookup.
    """
    fewest = task.fewest_pieces()
    weights = task.divide(np.where(is_split, 0, task.is_member)).weights(task.balances)
    if task.balances == "bytes":  # not the parts' bytes, because these may have more padding than the whole table
        total = task.divide(task.is_member.astype(np.int64)).weights(task.balances).sum()
    else:
        total = task.divide(fewest).weights(task.balances).sum()
        idle_s = idle_parts(task.statistics, task.costs, task.config.encoding).cpu_s[is_split]
        weights = np.concatenate([weights, np.repeat(idle_s, fewest[is_split])])
    return bound_with_splits(weights, float(total), task.num_shards)
