"""Whether an old plan can be replanned, and the shapes of its tables."""

from collections import defaultdict

from exfm.artifact.plan import Encoding, ShardPlan
from exfm.errors import PlanError
from exfm.schema import Schema


def check_old_plan(old: ShardPlan, schema: Schema) -> None:
    """Check that an old plan can be replanned for a schema.

    Raises: PlanError if the plan contradicts itself, or has none of the schema's tables.
    """
    if problem := _contradiction(old):
        raise PlanError(f"the old plan {problem}; plan without it")
    old_tables = shapes_of(old)
    if not set(old_tables) & {table.name for table in schema.tables}:
        raise PlanError(
            f"the old plan has {len(old_tables)} tables, and none of the schema's {len(schema.tables)}: it is for "
            "another model; plan without it"
        )


def shapes_of(plan: ShardPlan) -> dict[str, tuple[int, int, Encoding]]:
    """Return each table's number of rows, the bytes of a row, and the encoding."""
    rows: defaultdict[str, int] = defaultdict(int)
    row_bytes: dict[str, int] = {}
    for slice_ in plan.slices:
        rows[slice_.table] += slice_.num_rows if slice_.kind == "rows" else 0
        row_bytes[slice_.table] = slice_.size_bytes // slice_.num_rows
    return {table: (rows[table], row_bytes[table], plan.encoding) for table in rows}


def _contradiction(plan: ShardPlan) -> str:
    """Return how a plan contradicts itself, without its schema; empty if it has its shards, and each row once."""
    if len(plan.replicas) != plan.num_shards:
        return f"has {plan.num_shards} shards, but replicas for {len(plan.replicas)}"
    for name, slices in plan.by_table().items():
        last_shard = max(slice_.shard for slice_ in slices)
        if last_shard >= plan.num_shards:
            return f"places table {name!r} on shard {last_shard}, but has {plan.num_shards} shards, from 0 on"
        if len({(slice_.size_bytes // slice_.num_rows, slice_.size_bytes % slice_.num_rows) for slice_ in slices}) > 1:
            return f"has slices of table {name!r} whose rows take different bytes"
        next_row = 0
        for slice_ in slices:
            if slice_.kind == "rows" and slice_.first_row != next_row:
                return f"has a slice of table {name!r} from row {slice_.first_row} on, expected {next_row}"
            next_row += slice_.num_rows if slice_.kind == "rows" else 0
        if not next_row:
            return f"has hot rows of table {name!r}, but not the table itself"
    return ""
