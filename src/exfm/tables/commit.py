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
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from exfm.artifact.stores import exists, join, write_file
from exfm.errors import StorageError
from exfm.tables.grid import WINDOW
from exfm.tables.statistics import file_statistics
from exfm.tables.table import INPUTS, ITEM, WHOLE, Table, TableState, asking, part_of

MAX_TRIES = 100
"""Commits of others that may overtake one: each of these got something done."""

ROW_GROUP_ROWS = 65_536
"""Rows that a reader can skip together."""

ZSTD_LEVEL = 1
"""Of compression: a higher level takes more time than it saves space."""


@dataclass(frozen=True)
class StagedFile:
    """A file that is written, and is no part of its table before a commit."""

    path: str
    window: int
    num_rows: int
    size_bytes: int
    statistics: str
    """What readers may know without opening it, as Delta's JSON."""


def stage(table: Table, rows: pl.DataFrame, *, window: int, part: str = "", revision: int = 1) -> StagedFile:
    """Write rows of one window as a file named by its content, so that a second try finds it; return it.

    `part` is of a window that several items share, such as a foundation model; it has no dot.

    Raises: StorageError if it cannot be written.
    """
    content = io.BytesIO()
    rows = rows.select(list(table.columns))
    rows.write_parquet(content, compression_level=ZSTD_LEVEL, row_group_size=ROW_GROUP_ROWS)
    data = content.getvalue()
    path = f"{WINDOW}={window}/{part or WHOLE}.{revision}.{hashlib.sha256(data).hexdigest()[:32]}.parquet"
    uri = join(table.uri, path)
    table.on_step(f"write {table.name}/{path}")
    if not exists(uri):
        write_file(uri, data)
    return StagedFile(
        path=path, window=window, num_rows=rows.height, size_bytes=len(data), statistics=file_statistics(rows)
    )


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
    `TableState.revision` returns by name. False may also mean that this did it, if the store's answer was lost.

    Raises: StorageError if the store refuses, a column has another type, or others commit without end.
    """
    properties = CommitProperties(
        app_transactions=[Transaction(item, revision), *(Transaction(*mark) for mark in marks.items())],
        custom_metadata={ITEM: item, INPUTS: json.dumps(dict(inputs))},
        max_commit_retries=0,
    )
    for _ in range(MAX_TRIES):
        try:
            opened = table.open() or table.create()
            if TableState(table, opened).revision(item) >= revision:
                return False
            table.extend(opened)
            table.on_step(f"commit {table.name} {item} {revision}")
            with asking(table.uri):
                opened.create_write_transaction(
                    _actions(opened, files, replaces, part),
                    "append",
                    opened.schema(),
                    [WINDOW],
                    commit_properties=properties,
                )
        except CommitFailedError:
            continue  # another commit came first: its item may be this one
        return True
    raise StorageError(
        f"{table.uri}: {item!r} was overtaken by {MAX_TRIES} other commits; run fewer processes at once, and run this "
        "again"
    )


def _actions(
    opened: DeltaTable, files: Sequence[StagedFile], replaces: int | None, part: str
) -> list[AddAction | RemoveAction]:
    """Return what a commit does. A file that stays is neither added nor removed: Delta allows no path to be both."""
    windows = {file.window for file in files} if replaces is None else {replaces}
    filters = [(WINDOW, "in", [str(window) for window in sorted(windows)])]
    uris = opened.file_uris(file_pruning_predicate=filters) if windows else []
    there = {"/".join(uri.rsplit("/", 2)[1:]) for uri in uris}
    staged = {file.path: file for file in files}
    num_rows = sum(file.num_rows for file in staged.values())  # files without rows may be the same
    assert num_rows == sum(file.num_rows for file in files), (
        f"files with the same rows, which a table holds once: {files}"
    )
    added: list[AddAction | RemoveAction] = [
        AddAction(
            file.path,
            file.size_bytes,
            {WINDOW: str(file.window)},
            0,  # a clock's time would make two tries differ
            True,
            file.statistics,
        )
        for path, file in staged.items()
        if path not in there
    ]
    if replaces is None:
        same = [path for path in staged if path in there and staged[path].num_rows]
        assert not same, f"two items have the same rows, which a table holds once: {same}"
        return added
    now_ms = time.time_ns() // 1_000_000  # read by clean-ups only, which keep a file for some days
    gone = sorted(path for path in there - staged.keys() if part_of(path) == part)
    return added + [RemoveAction(path, True, now_ms, partition_values={WINDOW: str(replaces)}) for path in gone]
