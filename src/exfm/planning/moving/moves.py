"""What a new plan makes shards load that they did not hold, and the numbering of shards that makes it least.

Legend: N new shards, O old shards. A shard is known by its number.
"""

from collections import defaultdict

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from exfm.artifact.plan import Encoding, ShardPlan, TableSlice
from exfm.errors import PlanError

Integers = npt.NDArray[np.int64]


def check_alone(plan: ShardPlan) -> None:
    """Return a plan if it makes sense whatever the schema: shards that it has, and each row of its tables once.

    Raises: PlanError, which names the first table that is wrong, and how.
    """
    if len(plan.replicas) != plan.num_shards:
        raise PlanError(f"the old plan has {plan.num_shards} shards, but replicas for {len(plan.replicas)}")
    for name, slices in plan.by_table().items():
        beyond = max(slice_.shard for slice_ in slices)
        if beyond >= plan.num_shards:
            raise PlanError(
                f"the old plan places table {name!r} on shard {beyond}, but has {plan.num_shards} shards, from 0 on"
            )
        if len({(slice_.size_bytes // slice_.num_rows, slice_.size_bytes % slice_.num_rows) for slice_ in slices}) > 1:
            raise PlanError(f"the old plan has slices of table {name!r} whose rows take different bytes")
        next_row = 0
        for slice_ in slices:
            if slice_.kind == "rows" and slice_.first_row != next_row:
                raise PlanError(
                    f"the old plan has a slice of table {name!r} from row {slice_.first_row} on, expected {next_row}"
                )
            next_row += slice_.num_rows if slice_.kind == "rows" else 0
        if not next_row:
            raise PlanError(f"the old plan has hot rows of table {name!r}, but not the table itself")


def moved_bytes(new: ShardPlan, old: ShardPlan) -> int:
    """Return the bytes of rows that a shard of the new plan holds and the shard of that number did not.

    Rows of a table whose number of rows, dim or encoding has changed are other rows. Of a hot slice as large as before
    the rows count as the same ones: which they are is the bundle's to know.
    """
    held = shared_bytes(new, old)
    num_both = min(held.shape)
    return sum(slice_.size_bytes for slice_ in new.slices) - int(np.trace(held[:num_both, :num_both]))


def shared_bytes(new: ShardPlan, old: ShardPlan) -> Integers:
    """Return the bytes that each new shard and each old shard both hold; shape [N, O]."""
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


def shapes_of(plan: ShardPlan) -> dict[str, tuple[int, int, Encoding]]:
    """Return each table's rows, the bytes of one of them, and how they are kept."""
    rows: defaultdict[str, int] = defaultdict(int)
    row_bytes: dict[str, int] = {}
    for slice_ in plan.slices:
        rows[slice_.table] += slice_.num_rows if slice_.kind == "rows" else 0
        row_bytes[slice_.table] = slice_.size_bytes // slice_.num_rows
    return {table: (rows[table], row_bytes[table], plan.encoding) for table in rows}


def renumbered(new: ShardPlan, old: ShardPlan) -> Integers:
    """Return the number that each new shard should have, so that least moves; shape [N].

    An assignment problem on the bytes that new and old shards share, which scipy solves exactly.
    """
    shared = shared_bytes(new, old)[:, : new.num_shards]  # shards beyond are gone in any case
    kept = np.zeros((new.num_shards, new.num_shards))
    kept[:, : shared.shape[1]] = shared
    numbers: Integers = linear_sum_assignment(kept, maximize=True)[1]
    return numbers
