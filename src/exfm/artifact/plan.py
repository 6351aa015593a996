"""A shard plan: which shard holds which rows of which table.

Row slices part each table: consecutive rows, hence ranges of keys, and every row in exactly one. A hot slice is a copy
made on purpose: the rows that requests access most, so that many servers hold those and few the whole table.
A bundle lists the hot rows; a key whose row is among them is looked up in the hot slice, any other in its row slice.
Source: ElasticRec (arXiv:2406.06955), from which hot rows and their own number of servers are taken.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, StringConstraints

from exfm.artifact.rows import first_key_of_row
from exfm.config import Config
from exfm.errors import PlanError
from exfm.schema import Schema

Encoding = Literal["fp32", "fp16", "int8"]
"""How the numbers of a row are kept. int8: a byte each, after a scale and a bias for the row (exfm.models.encoding)."""

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

SliceKind = Literal["rows", "hot"]

SCALE_AND_BIAS_BYTES = 4
"""Bytes of an int8 row's scale and bias, 2 B each in half precision."""

ALIGNMENT_BYTES = 64
"""A slice starts at a multiple of this in its shard's flat tensor: one cache line."""

ROW_SET_BYTES = 12 / 64
"""Bytes per row of a table with a hot slice, to find its hot rows: a bit for each row and 4 B for each 64 rows, however
few are hot."""


def row_bytes(dim: int, encoding: Encoding) -> int:
    """Return what one row of a table takes, in a file and in memory."""
    return {"fp32": 4 * dim, "fp16": 2 * dim, "int8": SCALE_AND_BIAS_BYTES + dim}[encoding]


HexKey = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-f]{16}$")]
"""A 64-bit key as text, since JSON numbers are exact only to 2**53."""


class TableSlice(Config):
    """Rows of one table on one shard, and the keys that may fall on them."""

    table: str
    shard: Annotated[int, Field(ge=0)]
    kind: SliceKind = "rows"
    """`rows`: consecutive ones, which no other slice of this kind has. `hot`: copies of the table's `num_rows` hottest
    rows, one after another in rising row number; at most one a table."""
    encoding: Encoding
    first_row: Annotated[int, Field(ge=0)]
    """0 for a hot slice, whose rows the bundle lists."""
    num_rows: Annotated[int, Field(ge=1)]
    first_key: HexKey
    last_key: HexKey
    """Inclusive. Hot rows lie anywhere: a hot slice's range is that of all keys."""
    offset_bytes: Annotated[int, Field(ge=0)]
    """Where the slice starts in the shard's flat tensor."""
    size_bytes: Annotated[int, Field(ge=1)]


class ShardPlan(Config):
    """Every row of every table in exactly one row slice, and copies of hot rows."""

    strategy: str
    num_shards: Annotated[int, Field(ge=1, le=1024)]
    replicas: tuple[Annotated[int, Field(ge=1)], ...]
    """Number of servers of each shard."""
    rankers: Annotated[int, Field(ge=0)] = 0
    """Rankers for the load of the plan; 0: not planned."""
    slices: tuple[TableSlice, ...]
    """Slices of all shards, in one encoding."""

    @property
    def encoding(self) -> Encoding:
        """Return how rows are kept."""
        return self.slices[0].encoding if self.slices else "fp32"

    def slices_on(self, shard: int) -> tuple[TableSlice, ...]:
        """Return one shard's slices, in the plan's order."""
        return tuple(slice_ for slice_ in self.slices if slice_.shard == shard)

    def by_table(self) -> dict[str, tuple[TableSlice, ...]]:
        """Return each table's slices, by its name: those of rows in order of rows, then the hot one if there is one."""
        tables: defaultdict[str, list[TableSlice]] = defaultdict(list)
        for slice_ in sorted(self.slices, key=order_of_slice):
            tables[slice_.table].append(slice_)
        return {name: tuple(slices) for name, slices in tables.items()}

    def hot_slices(self) -> dict[str, TableSlice]:
        """Return the hot slices, by table."""
        return {slice_.table: slice_ for slice_ in self.slices if slice_.kind == "hot"}

    def row_set_bytes(self, schema: Schema, *, shard: int | None = None) -> int:
        """Return what a ranker needs to find hot rows; or the server of one shard, for those that it holds."""
        found = [slice_ for slice_ in self.hot_slices().values() if shard in {None, slice_.shard}]
        return sum(int(schema.table(slice_.table).rows * ROW_SET_BYTES) for slice_ in found)

    def flat_size_bytes(self, shard: int) -> int:
        """Return the length of one shard's flat tensor."""
        return max((s.offset_bytes + s.size_bytes for s in self.slices_on(shard)), default=0)

    def check(self, schema: Schema) -> Self:
        """Return this plan if it places each row and key of each of the schema's tables exactly once, hot copies aside.

        Raises: PlanError, which names the table and what is wrong with it.
        """
        if len(self.replicas) != self.num_shards:
            raise PlanError(f"the plan has {self.num_shards} shards, but replicas for {len(self.replicas)}")
        assignments = [Assignment(s.table, s.shard, s.first_row, s.num_rows, hot=s.kind == "hot") for s in self.slices]
        expected = assign(schema, assignments, self.num_shards, encoding=self.encoding)
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
    hot: bool = False
    """Whether these are copies of the table's hottest rows; `first_row` is then 0."""


def order_of_slice(slice_: TableSlice) -> tuple[bool, int]:
    """Return what sorts one table's slices: those of rows by row, then the hot one."""
    return slice_.kind == "hot", slice_.first_row


def assign(
    schema: Schema, assignments: Iterable[Assignment], num_shards: int, *, encoding: Encoding = "fp32"
) -> tuple[TableSlice, ...]:
    """Return the slices for these assignments, laid out one after another on each shard.

    Raises: PlanError if a row of a table is placed twice or not at all, or a shard does not exist; if a table has two
    sets of hot rows, or none of its rows is left cold.
    """
    assignments = list(assignments)
    tables = {table.name: table for table in schema.tables}
    of_table: defaultdict[str, list[Assignment]] = defaultdict(list)
    for assignment in assignments:
        of_table[assignment.table].append(assignment)
    unknown = of_table.keys() - tables.keys()
    if unknown:
        raise PlanError(f"the plan places table {', '.join(sorted(unknown))}, which the schema does not have")
    for name, table in tables.items():
        _check_rows(name, table.rows, [a for a in of_table[name] if not a.hot])
        _check_hot(name, table.rows, [a for a in of_table[name] if a.hot])
    free_bytes = [0] * num_shards
    slices = []
    for assignment in assignments:
        if not 0 <= assignment.shard < num_shards:
            raise PlanError(f"table {assignment.table!r} is on shard {assignment.shard}; there are {num_shards}")
        table = tables[assignment.table]
        size_bytes = assignment.num_rows * row_bytes(table.dim, encoding)
        end_row = table.rows if assignment.hot else assignment.first_row + assignment.num_rows
        slices.append(
            TableSlice(
                table=table.name,
                shard=assignment.shard,
                kind="hot" if assignment.hot else "rows",
                encoding=encoding,
                first_row=assignment.first_row,
                num_rows=assignment.num_rows,
                first_key=f"0x{first_key_of_row(assignment.first_row, table.rows):016x}",
                last_key=f"0x{first_key_of_row(end_row, table.rows) - 1:016x}",
                offset_bytes=free_bytes[assignment.shard],
                size_bytes=size_bytes,
            )
        )
        free_bytes[assignment.shard] += -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return tuple(slices)


def _check_rows(table: str, num_rows: int, assignments: Sequence[Assignment]) -> None:
    next_row = 0
    for assignment in sorted(assignments, key=lambda a: a.first_row):
        if assignment.num_rows < 1:
            raise PlanError(f"table {table!r}: a slice from row {assignment.first_row} has {assignment.num_rows} rows")
        if assignment.first_row != next_row:
            problem = "not placed" if assignment.first_row > next_row else "placed twice"
            lower, upper = sorted((next_row, assignment.first_row))
            raise PlanError(f"table {table!r}: rows {lower} to {upper - 1} are {problem}")
        next_row += assignment.num_rows
    if next_row != num_rows:
        raise PlanError(f"table {table!r} has {num_rows} rows, but the plan places {next_row}")


def _check_hot(table: str, num_rows: int, assignments: Sequence[Assignment]) -> None:
    if len(assignments) > 1:
        raise PlanError(f"table {table!r} has hot rows in {len(assignments)} slices; at most one may hold them")
    for assignment in assignments:
        if assignment.first_row != 0:
            raise PlanError(f"table {table!r}: its hot slice starts at row {assignment.first_row}, expected 0")
        if not 0 < assignment.num_rows < num_rows:
            raise PlanError(
                f"table {table!r} has {assignment.num_rows} hot rows, expected 1 to {num_rows - 1} of its {num_rows}: "
                "give a table that is hot as a whole a shard with more replicas instead"
            )
