"""What a planner places: tables, or parts of them, with their bytes and the work that they make.

Legend: T tables, P parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from exfm.artifact.plan import ALIGNMENT_BYTES, Assignment, Encoding, row_bytes
from exfm.errors import PlanError
from exfm.planning.pricing.costs import KEY_BYTES, LENGTH_BYTES, SUM_BYTES, CostModel, ShardWork, mass_of
from exfm.planning.statistics import Statistics

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

Balances = Literal["bytes", "work", "nothing"]
"""What a strategy evens out over the shards: bytes, or CPU time."""


@dataclass(frozen=True)
class Parts:
    """Rows of tables, each for one shard; arrays of shape [P]."""

    statistics: Statistics
    encoding: Encoding
    table: Integers
    """Its place among the statistics' tables."""
    first_row: Integers
    num_rows: Integers
    is_hot: Booleans
    """Whether it is a copy of its table's most wanted rows."""
    size_bytes: Integers
    """As laid out: a multiple of the alignment."""
    work: ShardWork
    """What a mean request asks of each, without the call that brings it."""
    cpu_s: Floats
    """CPU time of that at a shard."""
    ranker_cpu_s: Floats
    """CPU time of that at the ranker."""

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self.table)

    @property
    def is_user(self) -> Booleans:
        """Return which parts are of tables that only users' features look up; shape [P]."""
        return np.array([table.net == "user" for table in self.statistics.tables])[self.table]

    def weights(self, balances: Balances) -> Floats:
        """Return what a shard bears by each part: bytes, or else CPU seconds of a mean request; shape [P]."""
        return self.size_bytes.astype(np.float64) if balances == "bytes" else self.cpu_s

    @classmethod
    def divide(
        cls, statistics: Statistics, costs: CostModel, *, encoding: Encoding, pieces: Integers, hot_rows: Integers
    ) -> Self:
        """Return each table in `pieces` [T] parts of as many rows, and a copy of its `hot_rows` [T] where not 0."""
        rows_T = np.array([table.rows for table in statistics.tables])
        with_copy = np.flatnonzero(hot_rows)
        table = np.repeat(np.arange(len(rows_T)), pieces)
        rank = np.arange(len(table)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        first_row = rank * rows_T[table] // pieces[table]
        end_row = (rank + 1) * rows_T[table] // pieces[table]
        return cls.measure(
            statistics,
            costs,
            encoding=encoding,
            table=np.concatenate([table, with_copy]),
            first_row=np.concatenate([first_row, np.zeros_like(with_copy)]),
            num_rows=np.concatenate([end_row - first_row, hot_rows[with_copy]]),
            is_hot=np.arange(len(table) + len(with_copy)) >= len(table),
        )

    @classmethod
    def join(cls, first: Self, second: Self, costs: CostModel) -> Self:
        """Return the parts of both, which are of other tables."""
        return cls.measure(
            first.statistics,
            costs,
            encoding=first.encoding,
            table=np.concatenate([first.table, second.table]),
            first_row=np.concatenate([first.first_row, second.first_row]),
            num_rows=np.concatenate([first.num_rows, second.num_rows]),
            is_hot=np.concatenate([first.is_hot, second.is_hot]),
        )

    @classmethod
    def measure(
        cls,
        statistics: Statistics,
        costs: CostModel,
        *,
        encoding: Encoding,
        table: Integers,
        first_row: Integers,
        num_rows: Integers,
        is_hot: Booleans,
    ) -> Self:
        """Return these rows with their bytes and work; hot parts take their rows' keys from the other parts."""
        tables = statistics.tables
        rows_T, row_bytes_T = np.array([t.rows for t in tables]), row_bytes_of(statistics, encoding)
        copied_T = np.zeros(len(tables))
        for part in np.flatnonzero(is_hot):
            copied_T[table[part]] = mass_of(tables[table[part]], int(num_rows[part]))
        mass = np.where(is_hot, copied_T[table], (1 - copied_T[table]) * num_rows / rows_T[table])
        work = _work(statistics, table, mass, row_bytes_T)
        at_ranker = costs.model_copy(update={"shard": costs.ranker, "read_byte_ns": 0.0})
        return cls(
            statistics=statistics,
            encoding=encoding,
            table=table,
            first_row=first_row,
            num_rows=num_rows,
            is_hot=is_hot,
            size_bytes=-(-num_rows * row_bytes_T[table] // ALIGNMENT_BYTES) * ALIGNMENT_BYTES,
            work=work,
            cpu_s=costs.shard_cpu_s(work),
            ranker_cpu_s=at_ranker.shard_cpu_s(work),
        )


def row_bytes_of(statistics: Statistics, encoding: Encoding) -> Integers:
    """Return what a row of each table takes; shape [T]."""
    return np.array([row_bytes(table.dim, encoding) for table in statistics.tables])


def idle_parts(statistics: Statistics, costs: CostModel, encoding: Encoding) -> Parts:
    """Return a part of each table that gets none of its keys: what any slice costs beside its keys."""
    num_tables = len(statistics.tables)
    return Parts.measure(
        statistics,
        costs,
        encoding=encoding,
        table=np.arange(num_tables),
        first_row=np.zeros(num_tables, dtype=np.int64),
        num_rows=np.zeros(num_tables, dtype=np.int64),
        is_hot=np.zeros(num_tables, dtype=np.bool_),
    )


def assignments(parts: Parts, shard_of: Sequence[int]) -> list[Assignment]:
    """Return what to put where, in the statistics' order of tables; row parts that follow one another are one slice."""
    names = [table.name for table in parts.statistics.tables]
    order = np.lexsort((parts.first_row, parts.is_hot, parts.table))
    rows = zip(
        parts.table[order].tolist(),
        parts.first_row[order].tolist(),
        parts.num_rows[order].tolist(),
        parts.is_hot[order].tolist(),
        np.asarray(shard_of)[order].tolist(),
        strict=True,
    )
    found: list[Assignment] = []
    for table, first_row, num_rows, is_hot, shard in rows:
        last = found[-1] if found else None
        if last and not is_hot and (last.table, last.shard) == (names[table], shard):
            found[-1] = Assignment(last.table, shard, last.first_row, last.num_rows + num_rows)
        else:
            found.append(Assignment(names[table], shard, first_row, num_rows, hot=is_hot))
    return found


def pieces_within(statistics: Statistics, most_bytes: int, encoding: Encoding) -> Integers:
    """Return in how many parts of as many rows each table is, so that none takes more than `most_bytes`; shape [T].

    Raises: PlanError if a single row takes more.
    """
    pieces = []
    for table in statistics.tables:
        one_row_bytes = row_bytes(table.dim, encoding)
        most_rows = most_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES // one_row_bytes
        if not most_rows:
            raise PlanError(
                f"a row of table {table.name!r} takes {one_row_bytes} B, more than the {most_bytes} B that a shard "
                "holds; raise shard_memory_gib"
            )
        pieces.append(-(-table.rows // most_rows))
    return np.array(pieces)


def _work(statistics: Statistics, table: Integers, mass: Floats, row_bytes_T: Integers) -> ShardWork:
    """Return each part's work: its share of the keys, but every bag of its table, each answered with a sum."""
    tables = statistics.tables
    bags = np.array([t.bags_per_request for t in tables])[table]
    keys = np.array([t.keys_per_request for t in tables])[table] * mass
    dims = np.array([t.dim for t in tables])[table]
    none = np.zeros(len(table))
    return ShardWork(
        request_share=none,
        nets=none,
        lookups=np.array([float(t.num_features) for t in tables])[table],
        bags=bags,
        keys=keys,
        keys_variance=none,
        read_bytes=keys * row_bytes_T[table],
        request_bytes=keys * KEY_BYTES + bags * LENGTH_BYTES,
        answer_bytes=bags * dims * SUM_BYTES,
    )
