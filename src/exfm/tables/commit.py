"""Commits of files to a table, each revision of an item once, whoever tries and however often.

A table's transactions say what is done: an item, such as "labels/20400", and its last revision. delta-rs accepts a
revision twice, so it is looked up before each try; that a try which another commit overtook fails makes this safe.
"""

import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from exfm.artifact.stores import exists, join, write_file
from exfm.errors import StorageError
from exfm.tables.grid import WINDOW
from exfm.tables.table import WHOLE, Table, TableState

MAX_TRIES = 100
"""Commits of others that may overtake one: each of these got something done."""

ROW_GROUP_ROWS = 65_536
"""Rows that a reader can skip together."""


@dataclass(frozen=True)
class StagedFile:
    """A file that is written, and is no part of its table before a commit."""

    path: str
    window: int
    num_rows: int
    size_bytes: int


def stage(table: Table, rows: pl.DataFrame, *, window: int, part: str = "", revision: int = 1) -> StagedFile:
    """Write rows of one window as a file named by its content, so that a second try finds it; return it.

    `part` is of a window that several items share, such as a foundation model; it has no dot.

    Raises: StorageError if it cannot be written.
    """
    content = io.BytesIO()
    rows.select(list(table.columns)).write_parquet(content, row_group_size=ROW_GROUP_ROWS)
    data = content.getvalue()
    path = f"{WINDOW}={window}/{part or WHOLE}.{revision}.{hashlib.sha256(data).hexdigest()[:32]}.parquet"
    uri = join(table.uri, path)
    table.on_step(f"write {table.name}/{path}")
    if not exists(uri):
        write_file(uri, data)
    return StagedFile(path=path, window=window, num_rows=rows.height, size_bytes=len(data))


def commit(
    table: Table,
    files: Sequence[StagedFile],
    *,
    item: str,
    revision: int = 1,
    replaces: int | None = None,
    part: str = "",
    inputs: Mapping[str, int] = MappingProxyType({}),
    marks: Mapping[str, int] = MappingProxyType({}),
) -> bool:
    """Make files a part of their table, unless the item has this revision or a later one; return whether this did it.

    `replaces` is a window whose earlier files of `part` go; None: the files are added. `inputs` are the versions of
    other tables that the rows were made from; the commit records them. `marks` are numbers that the table keeps, which
    `TableState.revision` returns by name.

    Raises: StorageError if the store refuses, or others commit without end.
    """
    properties = CommitProperties(
        app_transactions=[Transaction(item, revision), *(Transaction(*mark) for mark in marks.items())],
        custom_metadata={"exfm.inputs": json.dumps(dict(inputs))},
        max_commit_retries=0,
    )
    by_path = {file.path: file for file in files}  # the same rows are one file
    actions: list[AddAction | RemoveAction] = [
        AddAction(
            file.path,
            file.size_bytes,
            {WINDOW: str(file.window)},
            0,  # a clock's time would make two tries differ
            True,
            json.dumps({"numRecords": file.num_rows}),
        )
        for file in by_path.values()
    ]
    for _ in range(MAX_TRIES):
        opened = table.open() or _created(table)
        if (opened.transaction_version(item) or 0) >= revision:
            return False
        table.on_step(f"commit {table.name} {item} {revision}")
        try:
            opened.create_write_transaction(
                [*actions, *_removals(TableState(table, opened), replaces, part)],
                "append",
                opened.schema(),
                [WINDOW],
                commit_properties=properties,
            )
        except CommitFailedError:
            continue  # another commit came first: its item may be this one
        except (DeltaError, OSError) as error:
            raise StorageError(f"{table.uri}: {error}; check the store's space, rights and credentials") from error
        return True
    raise StorageError(
        f"{table.uri}: {item!r} was overtaken by {MAX_TRIES} other commits; run fewer processes at once, and run this "
        "again"
    )


def _removals(state: TableState, window: int | None, part: str) -> list[RemoveAction]:
    before = [] if window is None else [file for file in state.files.get(window, ()) if file.part == part]
    now_ms = time.time_ns() // 1_000_000
    return [RemoveAction(file.path, True, now_ms, partition_values={WINDOW: str(file.window)}) for file in before]


def _created(table: Table) -> DeltaTable:
    table.on_step(f"create {table.name}")
    return table.create()
