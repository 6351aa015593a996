"""Tables laid out evenly on some shards, those over a shard's memory by ranges of rows.

Legend: T tables, P parts, S shards.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from exfm.artifact.plan import ALIGNMENT_BYTES, Encoding
from exfm.planning.config import ShardingConfig
from exfm.planning.placing.bounds import Bound, bound_with_splits
from exfm.planning.placing.packing import pack
from exfm.planning.placing.parts import Parts, idle_parts, pieces_within, row_bytes_of
from exfm.planning.pricing.costs import CostModel
from exfm.planning.statistics import Statistics

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

FINER = (2, 4)
"""Times as many parts as are needed, where those found no room."""

NUM_BISECTIONS = 60
"""Of the level that rows are poured up to: to the last digit."""


@dataclass(frozen=True)
class Task:
    """Tables for some shards, and what is to be even."""

    statistics: Statistics
    costs: CostModel
    config: ShardingConfig
    is_member: Booleans
    """Which tables; shape [T]."""
    num_shards: int
    balances: Literal["bytes", "work"]

    @property
    def encoding(self) -> Encoding:
        """Return how rows are kept."""
        return self.config.encoding

    def weights(self, parts: Parts) -> Floats:
        """Return what is to be even; shape [P]."""
        return parts.weights(self.balances)

    def fewest_pieces(self) -> Integers:
        """Return in how many parts each table must be, 0 if it is no member; shape [T].

        Raises: PlanError if a row is larger than a shard.
        """
        fewest = pieces_within(self.statistics, self.config.capacity_bytes, self.encoding)
        return np.where(self.is_member, fewest if self.config.split_rows else 1, 0)

    def divide(self, pieces: Integers) -> Parts:
        """Return the members in so many parts each."""
        return Parts.divide(
            self.statistics, self.costs, encoding=self.encoding, pieces=pieces, hot_rows=np.zeros_like(pieces)
        )


@dataclass(frozen=True)
class Layout:
    """A shard for each part."""

    parts: Parts
    shard_of: Integers
    """Shape [P]."""
    bottleneck: float
    bound: Bound
    """What no layout goes below, however the tables over a shard's memory are split."""


def lay_out(task: Task) -> Layout | None:
    """Return the more even of two layouts: tables in as few parts as fit, or what is split poured over all shards.

    Where neither has room for all, smaller parts are tried; None if they do not fit either.

    Raises: PlanError if a row is larger than a shard.
    """
    fewest = task.fewest_pieces()
    found = [_packed(task, fewest)]
    if (fewest > 1).any():
        found.append(_poured(task, fewest > 1))
        rows = np.array([table.rows for table in task.statistics.tables])
        for factor in FINER:
            if not any(found):
                found.append(_packed(task, np.minimum(factor * fewest, rows)))
    return min((layout for layout in found if layout), key=lambda layout: layout.bottleneck, default=None)


def _packed(task: Task, pieces: Integers) -> Layout | None:
    parts = task.divide(pieces)
    packing = pack(
        task.weights(parts), parts.size_bytes, num_shards=task.num_shards, capacity_bytes=task.config.capacity_bytes
    )
    if not packing:
        return None
    bound = packing.bound if pieces.max() == 1 else _bound(task, pieces > 1)
    return Layout(parts, packing.shard_of, packing.bottleneck, bound)


def _poured(task: Task, is_split: Booleans) -> Layout | None:
    """Return whole tables packed, and the rows of split ones poured in where least is borne, up to one level."""
    capacity_bytes = task.config.capacity_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES
    whole = task.divide(np.where(is_split, 0, task.is_member))
    shard_of = np.zeros(0, dtype=np.int64)
    if len(whole):
        packing = pack(task.weights(whole), whole.size_bytes, num_shards=task.num_shards, capacity_bytes=capacity_bytes)
        if not packing:
            return None
        shard_of = packing.shard_of
    borne_S = np.bincount(shard_of, task.weights(whole), task.num_shards).astype(np.float64)
    split = task.divide(is_split.astype(np.int64))
    row_bytes = row_bytes_of(task.statistics, task.encoding)[split.table]
    room_S = capacity_bytes - np.bincount(shard_of, whole.size_bytes, task.num_shards)
    room_S = np.maximum(room_S - (row_bytes + ALIGNMENT_BYTES).sum(), 0)  # what rounding may add
    poured_bytes = float((split.num_rows * row_bytes).sum())
    if room_S.sum() < poured_bytes:
        return None
    weight = task.weights(split).sum()
    if task.balances == "work":
        weight -= (
            idle_parts(task.statistics, task.costs, task.encoding).cpu_s[is_split].sum()
        )  # a slice's own, on every shard alike
    share_S = _pour(borne_S, room_S, poured_bytes, weight / poured_bytes) / poured_bytes
    ends_SP = np.rint(np.cumsum(share_S)[:, None] * split.num_rows).astype(np.int64)
    starts_SP = np.concatenate([np.zeros_like(ends_SP[:1]), ends_SP[:-1]])
    shards, places = np.nonzero(ends_SP > starts_SP)
    parts = Parts.measure(
        task.statistics,
        task.costs,
        encoding=task.encoding,
        table=np.concatenate([whole.table, split.table[places]]),
        first_row=np.concatenate([whole.first_row, starts_SP[shards, places]]),
        num_rows=np.concatenate([whole.num_rows, (ends_SP - starts_SP)[shards, places]]),
        is_hot=np.zeros(len(whole) + len(shards), dtype=np.bool_),
    )
    shard_of = np.concatenate([shard_of, shards])
    bottleneck = float(np.bincount(shard_of, task.weights(parts), task.num_shards).max())
    return Layout(parts, shard_of, bottleneck, _bound(task, is_split))


def _pour(borne_S: Floats, room_S: Floats, total: float, weight: float) -> Floats:
    """Return how much of `total`, each unit of that weight, goes to each shard so that the most borne is least."""
    if not weight:
        return np.asarray(room_S * total / room_S.sum(), dtype=np.float64)

    def up_to(level: float) -> Floats:
        return np.asarray(np.clip((level - borne_S) / weight, 0, room_S), dtype=np.float64)

    low, high = 0.0, float(borne_S.max() + weight * total)
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if up_to(middle).sum() >= total else (middle, high)
    poured = up_to(high)
    return np.asarray(poured * total / poured.sum(), dtype=np.float64)


def _bound(task: Task, is_split: Booleans) -> Bound:
    """Return the mean, or what parts force upon a shard: whole tables, and of what is split as many slices as must be.

    A slice weighs at least what its lookups do without a key of them.
    """
    fewest = task.fewest_pieces()
    weights = task.weights(task.divide(np.where(is_split, 0, task.is_member)))
    if task.balances == "bytes":  # of which parts may need more for padding than the whole
        total = task.weights(task.divide(task.is_member.astype(np.int64))).sum()
    else:
        total = task.weights(task.divide(fewest)).sum()
        idle_s = idle_parts(task.statistics, task.costs, task.encoding).cpu_s[is_split]
        weights = np.concatenate([weights, np.repeat(idle_s, fewest[is_split])])
    return bound_with_splits(weights, float(total), task.num_shards)
