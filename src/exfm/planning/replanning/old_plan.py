"""Whether an old plan can be replanned, and the shapes of its tables."""

from collections import defaultdict

from exfm.artifact.plan import Encoding, ShardPlan
from exfm.errors import PlanError
from exfm.schema import Schema


def check_old_plan(old: ShardPlan, schema: Schema) -> None:
    """Check that an old plan can be replanned for a schema.

    Raises: PlanError if the plan contradicts itself, or has none of the schema's tables.
    """
    _check_consistent(old)
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


def _check_consistent(plan: ShardPlan) -> None:
    """Check a plan without its schema: it has the shards that it names, and each row of its tables once.

    Raises: PlanError, which names the first table that is wrong, and why.
    """
    if len(plan.replicas) != plan.num_shards:
        raise PlanError(
            f"the old plan has {plan.num_shards} shards, but replicas for {len(plan.replicas)}; plan without it"
        )
    for name, slices in plan.by_table().items():
        beyond = max(slice_.shard for slice_ in slices)
        if beyond >= plan.num_shards:
            raise PlanError(
                f"the old plan places table {name!r} on shard {beyond}, but has {plan.num_shards} shards, from 0 on; "
                "plan without it"
            )
        if len({(slice_.size_bytes // slice_.num_rows, slice_.size_bytes % slice_.num_rows) for slice_ in slices}) > 1:
            raise PlanError(
                f"the old plan has slices of table {name!r} whose rows take different bytes; plan without it"
            )
        next_row = 0
        for slice_ in slices:
            if slice_.kind == "rows" and slice_.first_row != next_row:
                raise PlanError(
                    f"the old plan has a slice of table {name!r} from row {slice_.first_row} on, expected {next_row}; "
                    "plan without it"
                )
            next_row += slice_.num_rows if slice_.kind == "rows" else 0
        if not next_row:
            raise PlanError(f"the old plan has hot rows of table {name!r}, but not the table itself; plan without it")
