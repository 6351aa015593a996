"""A Delta table, and what one version of it holds.

ROOT/tables/<name>/_delta_log/             commits, by delta-rs
ROOT/tables/<name>/window=<index>/<part>.<revision>.<hash>.parquet   rows of one window; the hash is that of its content
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from exfm.artifact.stores import is_local, join
from exfm.errors import StorageError
from exfm.tables.grid import WINDOW

WHOLE = "ALL"
"""The part in the name of a file whose window has no parts; no model's name has capitals."""

ITEM, INPUTS = "exfm.item", "exfm.inputs"
"""What a commit says besides its files: its item, and as JSON the versions of other tables that it was made from."""

OnStep = Callable[[str], None]
"""Called before each write of a file and each commit, with its name."""


CONFIGURATION = {"delta.enableExpiredLogCleanup": "false", "delta.checkpointInterval": "20"}
"""Of a table's log. Versions older than Delta's default of 30 days can be read: references and inputs name them. Who
opens a table reads the last checkpoint and at most 20 commits (100 of a table that an earlier release made)."""


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a table."""

    path: str
    """Below the table."""
    window: int
    num_rows: int

    @property
    def part(self) -> str:
        """Return the part of its window that it belongs to; empty: the window has no parts."""
        return part_of(self.path)

    @property
    def revision(self) -> int:
        """Return the revision that it belongs to, from 1 on."""
        return int(self.path.rpartition("/")[2].split(".")[1])


@dataclass(frozen=True)
class Committed:
    """A commit, as a table's log has it."""

    item: str
    """Empty: it was made without an item."""
    at_ms: int
    """Time of the clock, since 1970."""


@dataclass(frozen=True)
class Table:
    """A table by name, whether it is there yet or not."""

    uri: str
    columns: Mapping[str, pl.DataType]
    """Types of its columns, without WINDOW."""
    on_step: OnStep = field(default=lambda step: None, compare=False)

    @property
    def name(self) -> str:
        """Return the last part of its URI."""
        return self.uri.rpartition("/")[2]

    def state(self) -> "TableState":
        """Return the newest version.

        Raises: StorageError if the store does not answer.
        """
        return TableState(self, self.open())

    def open(self) -> DeltaTable | None:
        """Return delta-rs' own handle of the newest version; None: nothing was committed yet."""
        with asking(self.uri):
            try:
                return DeltaTable(self.uri, storage_options=storage_options(self.uri))
            except TableNotFoundError:
                return None

    def create(self) -> DeltaTable:
        """Return delta-rs' own handle of the newest version, made now if no other process did.

        Raises: CommitFailedError if another process just makes it.
        """
        self.on_step(f"create {self.name}")
        with asking(self.uri):
            return DeltaTable.create(
                self.uri,
                self._schema(),
                mode="ignore",
                partition_by=[WINDOW],
                configuration=CONFIGURATION,
                storage_options=storage_options(self.uri),
            )

    def extend(self, opened: DeltaTable) -> None:
        """Give a table the columns that it lacks, by a commit of its own; the handle is then of that very version.

        Raises: CommitFailedError if another commit came first; StorageError if a column has another type.
        """
        schema = self._schema()
        found = {column.name: column.type for column in opened.schema().fields}
        for column in schema.fields:
            if found.get(column.name, column.type) != column.type:
                raise StorageError(
                    f"{self.uri}: column {column.name!r} is {found[column.name]} there, and {column.type} now; give it "
                    "another name, or remove the table and make it again"
                )
        missing = [column for column in schema.fields if column.name not in found]
        if missing:
            self.on_step(f"add columns to {self.name}")
            with asking(self.uri):
                opened.alter.add_columns(missing, commit_properties=CommitProperties(max_commit_retries=0))

    def _schema(self) -> Schema:
        columns = pl.DataFrame(schema=dict(self.columns)).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        return Schema.from_arrow(pa.schema([*columns, pa.field(WINDOW, pa.int64())]))


class TableState:
    """One version of a table; it never changes.

    Its methods and properties raise StorageError if the store does not answer, or the table's log is damaged.
    """

    def __init__(self, table: Table, opened: DeltaTable | None) -> None:
        self._table, self._opened = table, opened

    @property
    def uri(self) -> str:
        """Return the table's URI."""
        return self._table.uri

    @property
    def version(self) -> int:
        """Return the version; -1: nothing was committed yet."""
        return -1 if self._opened is None else int(self._opened.version())

    def revision(self, app: str) -> int:
        """Return the last revision of an item that was committed; 0: none."""
        if self._opened is None:
            return 0
        with asking(self.uri):
            return int(self._opened.transaction_version(app) or 0)

    def inputs(self, item: str, *, until: int) -> Mapping[str, int]:
        """Return the versions of other tables that an item was made from, by its newest commit up to a version.

        Empty: there is no such commit, or an earlier release made it.
        """
        found = [one for one in self._commits if one.get(ITEM) == item and one["version"] <= until]
        return dict(json.loads(max(found, key=lambda one: one["version"])[INPUTS])) if found else {}

    def version_of(self, item: str) -> int:
        """Return the version that an item's newest commit made; -1: no commit says so."""
        return max((one["version"] for one in self._commits if one.get(ITEM) == item), default=-1)

    def newest_commits(self, count: int) -> list[Committed]:
        """Return the newest commits, the oldest of them first; no other commit is read."""
        if self._opened is None:
            return []
        with asking(self.uri):
            found = self._opened.history(count)
        return [Committed(one.get(ITEM, ""), int(one["timestamp"])) for one in reversed(found)]

    @cached_property
    def _commits(self) -> list[dict[str, Any]]:
        if self._opened is None:
            return []
        with asking(self.uri):
            return self._opened.history()

    @cached_property
    def columns(self) -> Mapping[str, pl.DataType]:
        """Return the types of its columns, without WINDOW; those that it will have if it is not there yet."""
        if self._opened is None:
            return dict(self._table.columns)
        columns = pl.Schema(self._opened.schema().to_arrow())
        return {name: dtype for name, dtype in columns.items() if name != WINDOW}

    @cached_property
    def files(self) -> Mapping[int, tuple[DataFile, ...]]:
        """Files by window, in order of their names; windows without rows are not there."""
        if self._opened is None:
            return {}
        with asking(self.uri):
            actions = pl.DataFrame(self._opened.get_add_actions(flatten=True))
        rows = actions.select("path", f"partition.{WINDOW}", "num_records").sort(f"partition.{WINDOW}", "path")
        found: dict[int, list[DataFile]] = {}
        for path, window, num_rows in rows.iter_rows():
            found.setdefault(window, []).append(DataFile(path=path, window=window, num_rows=num_rows))
        return {window: tuple(files) for window, files in found.items()}

    def newest_revision(self, window: int, *, part: str = "") -> int:
        """Return the revision of a window, or of a part of it, that has files; 0: none."""
        return max((file.revision for file in self.files.get(window, ()) if file.part == part), default=0)

    def windows_of(self, part: str) -> list[int]:
        """Return the windows that have files of a part, in order of time."""
        return [window for window in sorted(self.files) if self.newest_revision(window, part=part)]

    def num_rows(self, windows: Iterable[int], *, part: str = "") -> int:
        """Return the number of rows of these windows, without reading a file; with `part`, of that part of a window."""
        files = (file for window in windows for file in self.files.get(window, ()))
        return sum(file.num_rows for file in files if part in ("", file.part))

    def scan(self, windows: Iterable[int], *, columns: Sequence[str] = ()) -> pl.LazyFrame:
        """Return the rows of these windows, with WINDOW; of columns (none named: all) only these leave the store.

        A column that is younger than a file is null there.
        """
        return self._scan([file for window in windows for file in self.files.get(window, ())], columns)

    def files_of(self, window: int, *, columns: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """Yield the rows of a window's files, one file after the other, so that a window need not fit into memory.

        Raises: as `read` does.
        """
        for file in self.files.get(window, ()):
            yield self._collect(self._scan([file], columns))

    def _scan(self, files: Sequence[DataFile], columns: Sequence[str]) -> pl.LazyFrame:
        schema = {**self.columns, **self._table.columns}
        paths = [join(self.uri, file.path) for file in files]
        wanted = list(columns) or [*schema, WINDOW]
        if not paths:
            return pl.LazyFrame(schema=schema | {WINDOW: pl.Int64}).select(wanted)
        return pl.scan_parquet(
            paths,
            schema=schema | {WINDOW: pl.Int64()},
            hive_schema={WINDOW: pl.Int64()},
            hive_partitioning=True,
            glob=False,
            missing_columns="insert",
            extra_columns="ignore",
        ).select(wanted)

    def read(self, windows: Iterable[int], *, columns: Sequence[str] = (), part: str = "") -> pl.DataFrame:
        """Return what `scan` finds; with `part`, only files of that part of a window are read.

        Raises: StorageError if a file is missing or damaged, or the store does not answer.
        """
        files = [file for window in windows for file in self.files.get(window, ())]
        return self._collect(self._scan([file for file in files if part in ("", file.part)], columns))

    def read_where(
        self, window: int, column: str, values: Sequence[str], *, columns: Sequence[str] = ()
    ) -> pl.DataFrame:
        """Return the rows of a window that have one of these values; row groups without one stay in the store.

        Raises: as `read` does.
        """
        rows = self.scan([window]).filter(pl.col(column).is_in(values))
        return self._collect(rows.select(columns) if columns else rows)

    def _collect(self, rows: pl.LazyFrame) -> pl.DataFrame:
        of = f"{self.uri}, version {self.version}"
        with asking(of):
            try:
                return rows.collect()
            except FileNotFoundError as error:
                remedy = "was it cleaned up? Run the stage again that named this version"
                raise StorageError(f"{of}: {_plain(error)}; {remedy}") from error
            except pl.exceptions.PolarsError as error:
                raise StorageError(f"{of}: {_plain(error)}") from error


def part_of(path: str) -> str:
    """Return the part of a window that a file is of; empty: the window has no parts."""
    part = path.rpartition("/")[2].split(".")[0]
    return "" if part == WHOLE else part


@contextmanager
def asking(uri: str) -> Iterator[None]:
    """Turn what delta-rs and polars raise of a table's store into a StorageError that names the table.

    That another commit came first stays as it is.
    """
    try:
        yield
    except CommitFailedError:
        raise
    except (DeltaError, OSError) as error:
        remedy = "check the path, the rights, the credentials and the free space"
        raise StorageError(f"{uri}: {_plain(error)}; {remedy}") from error


def _plain(error: Exception) -> str:
    """Return a message as one line; delta-rs draws a tree of lines in colours."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|\u21b3", "", str(error)).split())


def storage_options(uri: str) -> dict[str, str]:
    """Return what delta-rs must be told of a store, besides the environment."""
    if is_local(uri):
        return {}
    # An endpoint inside a cluster often has no TLS. A store that is away is an error within about 10 s.
    return {"AWS_ALLOW_HTTP": "true", "max_retries": "5", "retry_timeout": "10s", "connect_timeout": "2s"}
