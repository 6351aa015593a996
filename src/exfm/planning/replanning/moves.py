"""The bytes that a new plan moves, and the numbering of its shards that moves fewest.

Legend: N new shards, O old shards. Shards of both plans are the same if they have the same number.
"""

from collections import defaultdict

import numpy as np
from scipy.optimize import linear_sum_assignment

from exfm.artifact.plan import ShardPlan, TableSlice
from exfm.planning.arrays import Integers
from exfm.planning.replanning.old_plan import shapes_of


def moved_bytes(new: ShardPlan, old: ShardPlan) -> int:
    """Return the bytes of rows that shards of the new plan hold and the old shards of the same numbers did not.

    If a table's rows, dim or encoding have changed, all its rows move. A hot slice of the same size as before counts as
    unchanged, because a plan does not know which rows it has.
    """
    held = shared_bytes(new, old)
    num_both = min(held.shape)
    return sum(slice_.size_bytes for slice_ in new.slices) - int(np.trace(held[:num_both, :num_both]))


def shared_bytes(new: ShardPlan, old: ShardPlan) -> Integers:
    """Return the bytes that each new shard has in common with each old shard; shape [N, O]."""
    shared = np.zeros((new.num_shards, old.num_shards), dtype=np.int64)
    old_slices: defaultdict[tuple[str, str], list[TableSlice]] = defaultdict(list)
    for slice_ in old.slices:
        old_slices[slice_.table, slice_.kind].append(slice_)
    old_shapes, new_shapes = shapes_of(old), shapes_of(new)
    for slice_ in new.slices:
        if old_shapes.get(slice_.table) != new_shapes[slice_.table]:
            continue
        row_bytes = slice_.size_bytes // slice_.num_rows
        for before in old_slices[slice_.table, slice_.kind]:
            if slice_.kind == "hot":
                rows = slice_.num_rows if slice_.num_rows == before.num_rows else 0
            else:
                end = min(slice_.first_row + slice_.num_rows, before.first_row + before.num_rows)
                rows = max(0, end - max(slice_.first_row, before.first_row))
            shared[slice_.shard, before.shard] += rows * row_bytes
    return shared


def renumbered(new: ShardPlan, old: ShardPlan) -> Integers:
    """Return the number for each new shard that moves the fewest bytes; shape [N].

    It is the solution of an assignment problem on the bytes that new and old shards have in common.
    """
    shared = shared_bytes(new, old)[:, : new.num_shards]  # old shards with higher numbers are gone in any case
    kept = np.pad(shared, ((0, 0), (0, new.num_shards - shared.shape[1])))
    numbers: Integers = linear_sum_assignment(kept, maximize=True)[1]
    return numbers
