"""Placing tables on shards."""

from heapq import heapreplace

from exfm.artifact.plan import BYTES_PER_NUMBER, Assignment, ShardPlan, assign
from exfm.errors import PlanError
from exfm.schema import Schema
from exfm.sharding.config import ShardingConfig


def plan_by_size(schema: Schema, config: ShardingConfig) -> ShardPlan:
    """Return a plan that evens out the shards' bytes: largest table first, each to the emptiest shard.

    The largest shard is at most 4/3 of the best possible (Graham 1969, doi:10.1137/0117039).

    Raises: PlanError if a table does not fit the emptiest shard, or there are more shards than tables.
    """
    if config.num_shards > len(schema.tables):
        raise PlanError(f"{config.num_shards} shards for {len(schema.tables)} tables; take at most one shard a table")
    capacity_bytes = int(config.shard_memory_gib * 2**30)
    sizes_bytes = {table.name: table.rows * table.dim * BYTES_PER_NUMBER["fp32"] for table in schema.tables}
    used = [(0, shard) for shard in range(config.num_shards)]  # (bytes, shard); already a heap
    assignments = []
    for table in sorted(schema.tables, key=lambda table: (-sizes_bytes[table.name], table.name)):
        used_bytes, shard = used[0]
        size_bytes = sizes_bytes[table.name]
        if used_bytes + size_bytes > capacity_bytes:
            raise PlanError(
                f"table {table.name!r} needs {size_bytes} B, but the emptiest of {config.num_shards} shards has "
                f"{capacity_bytes - used_bytes} B free; raise shard_memory_gib or num_shards"
            )
        assignments.append(Assignment(table=table.name, shard=shard, first_row=0, num_rows=table.rows))
        heapreplace(used, (used_bytes + size_bytes, shard))
    return ShardPlan(
        strategy="size-balanced",
        num_shards=config.num_shards,
        replicas=(1,) * config.num_shards,
        slices=assign(schema, assignments, config.num_shards),
    )
