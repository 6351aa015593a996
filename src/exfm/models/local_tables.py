"""Tables that a ranker holds itself, as if they were on one more shard.

Shards send a ranker mostly pooled embeddings of items: a table's dims for each item, however few rows the table has.
A user's pooled embeddings are sent once per request. So the ranker takes item tables first, those with the fewest rows
per feature.
"""

from collections.abc import Collection

from exfm.artifact.plan import Assignment, ShardPlan, assign, row_bytes
from exfm.errors import ConfigError
from exfm.schema import Schema


def choose_local_tables(plan: ShardPlan, schema: Schema, *, size_bytes: int) -> tuple[str, ...]:
    """Return the tables that fit into a ranker's `size_bytes`, as the plan encodes them.

    Raises: ConfigError if there is room for none.
    """
    num_features = {table.name: 0 for table in schema.tables}
    for feature in schema.sparse_of("item"):
        num_features[feature.table] += 1
    of_items = [table for table in schema.tables if num_features[table.name]]
    sizes = {table.name: table.rows * row_bytes(table.dim, plan.encoding) for table in of_items}
    chosen, free_bytes = [], size_bytes
    for table in sorted(of_items, key=lambda table: (table.rows / num_features[table.name], table.name)):
        if sizes[table.name] <= free_bytes:
            chosen.append(table.name)
            free_bytes -= sizes[table.name]
    if not chosen:
        least = f"the smallest takes {min(sizes.values())} B" if sizes else "there is none"
        raise ConfigError(f"there is room for {size_bytes} B of tables of items, but {least}; allow more, or 0")
    return tuple(chosen)


def with_local_tables(plan: ShardPlan, schema: Schema, tables: Collection[str]) -> ShardPlan:
    """Return the plan of a ranker that holds these tables itself: they are on one more shard only."""
    if not tables:
        return plan
    held = [
        Assignment(slice_.table, slice_.shard, slice_.first_row, slice_.num_rows, hot=slice_.kind == "hot")
        for slice_ in plan.slices
        if slice_.table not in tables
    ]
    local = [Assignment(name, plan.num_shards, 0, schema.table(name).rows) for name in tables]
    num_shards = plan.num_shards + 1
    slices = assign(schema, [*held, *local], num_shards, encoding=plan.encoding)
    return plan.model_copy(update={"num_shards": num_shards, "replicas": (*plan.replicas, 1), "slices": slices})
