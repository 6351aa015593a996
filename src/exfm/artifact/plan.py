"""A shard plan: which shard holds which rows of which table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from exfm.artifact.rows import first_key_of_row
from exfm.config import Config
from exfm.errors import PlanError
from exfm.schema import Schema

Encoding = Literal["fp32"]

BYTES_PER_NUMBER: dict[Encoding, int] = {"fp32": 4}

ALIGNMENT_BYTES = 64
"""Of a slice in its shard's flat tensor: one cache line."""

HexKey = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-f]{16}$")]
"""A 64-bit key as text, since JSON numbers are exact only to 2**53."""


class TableSlice(Config):
    """Consecutive rows of one table on one shard, and the keys that fall on them."""

    table: str
    shard: Annotated[int, Field(ge=0)]
    encoding: Encoding
    first_row: Annotated[int, Field(ge=0)]
    num_rows: Annotated[int, Field(ge=1)]
    first_key: HexKey
    last_key: HexKey
    """Inclusive."""
    offset_bytes: Annotated[int, Field(ge=0)]
    """Where the slice starts in the shard's flat tensor of this encoding."""
    size_bytes: Annotated[int, Field(ge=1)]


class ShardPlan(Config):
    """Every row of every table, on exactly one shard."""

    strategy: str
    num_shards: Annotated[int, Field(ge=1, le=1024)]
    replicas: tuple[Annotated[int, Field(ge=1)], ...]
    """Servers a shard, one number each."""
    slices: tuple[TableSlice, ...]

    def slices_on(self, shard: int) -> tuple[TableSlice, ...]:
        """Return one shard's slices, in the plan's order."""
        return tuple(slice_ for slice_ in self.slices if slice_.shard == shard)

    def slices_of(self, table: str) -> tuple[TableSlice, ...]:
        """Return one table's slices, in order of rows."""
        return tuple(sorted((s for s in self.slices if s.table == table), key=lambda s: s.first_row))

    def flat_size_bytes(self, shard: int) -> int:
        """Return the length of one shard's flat tensor; every shard has one encoding now."""
        return max((s.offset_bytes + s.size_bytes for s in self.slices_on(shard)), default=0)

    def check(self, schema: Schema) -> Self:
        """Return this plan if it places each row and key of each of the schema's tables exactly once.

        Raises: PlanError, which names the table and what is wrong with it.
        """
        if len(self.replicas) != self.num_shards:
            raise PlanError(f"the plan has {self.num_shards} shards, but replicas for {len(self.replicas)}")
        expected = assign(
            schema, [Assignment(s.table, s.shard, s.first_row, s.num_rows) for s in self.slices], self.num_shards
        )
        for found, right in zip(self.slices, expected, strict=True):
            if found != right:
                raise PlanError(f"the plan's slice {found} should be {right}: plan again")
        return self


@dataclass(frozen=True)
class Assignment:
    """Rows of a table for a shard: what a planner decides."""

    table: str
    shard: int
    first_row: int
    num_rows: int


def assign(schema: Schema, assignments: Iterable[Assignment], num_shards: int) -> tuple[TableSlice, ...]:
    """Return the slices for these assignments, laid out one after another on each shard.

    Raises: PlanError if a row of a table is placed twice or not at all, or a shard does not exist.
    """
    assignments = list(assignments)
    unknown = {a.table for a in assignments} - {table.name for table in schema.tables}
    if unknown:
        raise PlanError(f"the plan places table {', '.join(sorted(unknown))}, which the schema does not have")
    for table in schema.tables:
        _check_rows(table.name, table.rows, [a for a in assignments if a.table == table.name])
    free_bytes = [0] * num_shards
    slices = []
    for assignment in assignments:
        if not 0 <= assignment.shard < num_shards:
            raise PlanError(f"table {assignment.table!r} is on shard {assignment.shard}; there are {num_shards}")
        table = schema.table(assignment.table)
        size_bytes = assignment.num_rows * table.dim * BYTES_PER_NUMBER["fp32"]
        slices.append(
            TableSlice(
                table=table.name,
                shard=assignment.shard,
                encoding="fp32",
                first_row=assignment.first_row,
                num_rows=assignment.num_rows,
                first_key=f"0x{first_key_of_row(assignment.first_row, table.rows):016x}",
                last_key=f"0x{first_key_of_row(assignment.first_row + assignment.num_rows, table.rows) - 1:016x}",
                offset_bytes=free_bytes[assignment.shard],
                size_bytes=size_bytes,
            )
        )
        free_bytes[assignment.shard] += -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return tuple(slices)


def _check_rows(table: str, num_rows: int, assignments: Sequence[Assignment]) -> None:
    next_row = 0
    for assignment in sorted(assignments, key=lambda a: a.first_row):
        if assignment.first_row != next_row:
            problem = "not placed" if assignment.first_row > next_row else "placed twice"
            lower, upper = sorted((next_row, assignment.first_row))
            raise PlanError(f"table {table!r}: rows {lower} to {upper - 1} are {problem}")
        next_row += assignment.num_rows
    if next_row != num_rows:
        raise PlanError(f"table {table!r} has {num_rows} rows, but the plan places {next_row}")
