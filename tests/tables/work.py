"""Work on a table, done by processes that are forked from one which has imported what they need.

    work.py race URI ITEM...      one process an item, all at once
    work.py stop URI              a process for each step, which stops there, and one after it, on a table each

It prints its findings as JSON.
"""

import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import fsspec
import polars as pl
import s3fs  # noqa: F401 - else each process imports it anew

from exfm.tables.commit import commit, stage
from exfm.tables.table import OnStep, Table

COLUMNS = {"key": pl.Int64(), "time": pl.Datetime("us", "UTC"), "tags": pl.List(pl.String())}
STOPPED = 9


def rows(*keys: int) -> pl.DataFrame:
    """Return a row for each key."""
    times = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=key) for key in keys]
    return pl.DataFrame({"key": keys, "time": times, "tags": [[str(key)] for key in keys]}, schema=dict(COLUMNS))


def do(table: Table, window: int) -> bool:
    """Do the item of a window: two files."""
    files = [stage(table, rows(10 * window), window=window), stage(table, rows(10 * window + 1), window=window)]
    return commit(table, files, item=f"labels/{window}", replaces=window)


def do_all(uri: str, on_step: OnStep) -> None:
    """Do a window, its second revision, and a window with a column more."""
    table = Table(uri, COLUMNS, on_step)
    do(table, 1)
    commit(table, [stage(table, rows(10, 12), window=1)], item="labels/1", revision=2, replaces=1)
    wider = Table(uri, {**COLUMNS, "score": pl.Float64()}, on_step)
    scored = rows(30).with_columns(score=pl.lit(0.5))
    commit(wider, [stage(wider, scored, window=3)], item="labels/3", replaces=3, inputs={"impressions": 4})


def race(uri: str, windows: Sequence[int]) -> list[bool]:
    """Return which of several processes, one for each window named, did its item."""
    start, release = os.pipe()
    children = []
    for window in windows:

        def enter(window: int = window) -> int:
            os.close(release)
            os.read(start, 1)  # until the last of them is there
            return int(do(Table(uri, COLUMNS), window))

        children.append(fork(enter))
    os.close(release)
    return [bool(status(child)) for child in children]


def stop(uri: str) -> int:
    """Return the number of steps, at each of which a process stopped, and another one did the rest."""
    for step in range(100):
        codes = [status(fork(partial(do_all, f"{uri}/{step}", stopping_at(at)))) for at in (step, None)]
        assert codes[1] == 0
        if codes[0] == 0:
            return step
    raise AssertionError("it goes on and on")


def stopping_at(step: int | None) -> OnStep:
    """Return what ends the process before a step."""
    steps = itertools.count()

    def on_step(name: str) -> None:
        if next(steps) == step:
            os._exit(STOPPED)

    return on_step


def fork(do: Callable[[], int | None]) -> int:
    """Start a process, which ends with the number that `do` returns."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = do() or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 70
    finally:
        os._exit(code)


def status(child: int) -> int:
    """Return how a process ended."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1, STOPPED), code
    return code


def log_of(uri: str) -> list[dict[str, Any]]:
    """Return the actions of all commits, in order."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.invalidate_cache()
    names = sorted(filesystem.glob(f"{path}/_delta_log/*.json"))
    return [json.loads(line) for name in names for line in filesystem.cat_file(name).decode().splitlines()]


def commits_of(uri: str) -> Counter[tuple[str, int]]:
    """Return how often each revision of an item was committed."""
    return Counter((action["txn"]["appId"], action["txn"]["version"]) for action in log_of(uri) if "txn" in action)


def files_there(uri: str) -> set[str]:
    """Return the files of a folder, hidden ones too, without its log."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.invalidate_cache()
    found = {name.removeprefix(path).lstrip("/") for name in filesystem.find(path)}
    return {name for name in found if not name.startswith("_delta_log/")}


if __name__ == "__main__":
    command, uri, *windows = sys.argv[1:]
    print(json.dumps(race(uri, [int(window) for window in windows]) if command == "race" else stop(uri)))
