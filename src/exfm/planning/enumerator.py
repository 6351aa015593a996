"""The enumerator: tables divided into parts that can be placed, each with its bytes and its work.

Legend: T tables, P parts.
"""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from exfm.artifact.plan import ALIGNMENT_BYTES, Assignment, Encoding, row_bytes
from exfm.errors import PlanError
from exfm.planning.arrays import Booleans, Floats, Integers
from exfm.planning.config import ShardingConfig
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.cost_model.work import KEY_BYTES, LENGTH_BYTES, NUMBER_BYTES, ShardWork, mass_of
from exfm.planning.statistics import Statistics

Balances = Literal["bytes", "work", "nothing"]
"""What a strategy balances over the shards: bytes, CPU time, or nothing."""


@dataclass(frozen=True)
class Parts:
    """Parts of tables; a part is placed on one shard. Arrays have shape [P]."""

    statistics: Statistics
    encoding: Encoding
    table: Integers
    """Index of the part's table among the statistics' tables."""
    first_row: Integers
    num_rows: Integers
    is_hot: Booleans
    """Whether the part is a copy of its table's hottest rows."""
    size_bytes: Integers
    """Bytes as stored: a multiple of the alignment."""
    work: ShardWork
    """Work of each part in a mean request, without the call itself."""
    cpu_s: Floats
    """CPU time of that work at a shard."""
    ranker_cpu_s: Floats
    """CPU time of that work at the ranker."""

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self.table)

    @property
    def is_user(self) -> Booleans:
        """Return which parts belong to tables that only user features look up; shape [P]."""
        return np.array([table.net == "user" for table in self.statistics.tables])[self.table]

    def weights(self, balances: Balances) -> Floats:
        """Return each part's bytes, or its CPU seconds in a mean request, as the strategy balances; shape [P]."""
        return self.size_bytes.astype(np.float64) if balances == "bytes" else self.cpu_s

    @classmethod
    def divide(
        cls, statistics: Statistics, costs: CostModel, *, encoding: Encoding, pieces: Integers, hot_rows: Integers | int
    ) -> Self:
        """Return each table in `pieces` [T] parts of equal rows, and a copy of its `hot_rows` [T] hottest rows."""
        table, first_row, num_rows = row_ranges(statistics, pieces)
        hot_rows = np.zeros_like(pieces) + hot_rows
        with_copy = np.flatnonzero(hot_rows)
        return cls.measure(
            statistics,
            costs,
            encoding=encoding,
            table=np.concatenate([table, with_copy]),
            first_row=np.concatenate([first_row, np.zeros_like(with_copy)]),
            num_rows=np.concatenate([num_rows, hot_rows[with_copy]]),
            is_hot=np.arange(len(table) + len(with_copy)) >= len(table),
        )

    @classmethod
    def join(cls, first: Self, second: Self, costs: CostModel) -> Self:
        """Return the parts of both; they must not share a table."""
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
        """Return these parts with bytes and work; the keys of a hot part's rows no longer go to the table's others."""
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
            size_bytes=stored_bytes(num_rows * row_bytes_T[table]),
            work=work,
            cpu_s=costs.shard_cpu_s(work),
            ranker_cpu_s=at_ranker.shard_cpu_s(work),
        )


def row_ranges(statistics: Statistics, pieces: Integers) -> tuple[Integers, Integers, Integers]:
    """Return table, first row and number of rows of each part, if each table has `pieces` [T] parts; shape [P] each."""
    rows_T = np.array([table.rows for table in statistics.tables])
    table = np.repeat(np.arange(len(rows_T)), pieces)
    rank = np.arange(len(table)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first_row = rank * rows_T[table] // pieces[table]
    return table, first_row, (rank + 1) * rows_T[table] // pieces[table] - first_row


def stored_bytes(size_bytes: Integers) -> Integers:
    """Return sizes rounded up to the alignment of slices."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def row_bytes_of(statistics: Statistics, encoding: Encoding) -> Integers:
    """Return the bytes of a row of each table; shape [T]."""
    return np.array([row_bytes(table.dim, encoding) for table in statistics.tables])


def idle_parts(statistics: Statistics, costs: CostModel, encoding: Encoding) -> Parts:
    """Return a part of each table without rows and keys: the fixed cost of any slice of the table."""
    table = np.arange(len(statistics.tables))
    none = np.zeros_like(table)
    return Parts.measure(
        statistics, costs, encoding=encoding, table=table, first_row=none, num_rows=none, is_hot=none > 0
    )


def assignments(parts: Parts, shard_of: Integers) -> list[Assignment]:
    """Return the assignments in the statistics' order of tables; adjacent row parts on one shard are one slice."""
    names = [table.name for table in parts.statistics.tables]
    found: list[Assignment] = []
    for part in np.lexsort((parts.first_row, parts.is_hot, parts.table)).tolist():
        table, shard, is_hot = names[parts.table[part]], int(shard_of[part]), bool(parts.is_hot[part])
        first_row, num_rows = int(parts.first_row[part]), int(parts.num_rows[part])
        last = found[-1] if found else None
        if last and not is_hot and (last.table, last.shard) == (table, shard):
            found[-1] = Assignment(table, shard, last.first_row, last.num_rows + num_rows)
        else:
            found.append(Assignment(table, shard, first_row, num_rows, hot=is_hot))
    return found


def fewest_pieces(statistics: Statistics, config: ShardingConfig) -> Integers:
    """Return the fewest parts of equal rows for each table, so that none is larger than a shard; shape [T].

    Raises: PlanError if a single row is larger.
    """
    pieces = []
    for table in statistics.tables:
        one_row_bytes = row_bytes(table.dim, config.encoding)
        most_rows = config.capacity_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES // one_row_bytes
        if not most_rows:
            raise PlanError(
                f"a row of table {table.name!r} takes {one_row_bytes} B, but a shard has {config.capacity_bytes} B; "
                "raise shard_memory_gib"
            )
        pieces.append(-(-table.rows // most_rows))
    return np.array(pieces)


def _work(statistics: Statistics, table: Integers, mass: Floats, row_bytes_T: Integers) -> ShardWork:
    """Return each part's work: its share of the keys, and every bag of its table with a pooled embedding for each."""
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
        answer_bytes=bags * dims * NUMBER_BYTES,
    )
