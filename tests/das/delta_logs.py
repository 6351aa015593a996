"""What Delta logs say, read without delta-rs: what was committed, how often, and which files nothing names."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from exfm.artifact.stores import join, reaching
from exfm.das.closing import RULES
from exfm.das.log_tables import Das


def items(das: Das) -> Counter[tuple[str, str, int]]:
    """Return how often each revision of each item was committed, by table; marks are no items."""
    found: Counter[tuple[str, str, int]] = Counter()
    marks = {RULES, *das.lengths}
    for table, action in _actions(das):
        if "txn" in action and action["txn"]["appId"] not in marks:
            found[table, action["txn"]["appId"], action["txn"]["version"]] += 1
    return found


def unreferenced(das: Das) -> set[str]:
    """Return files of tables that no commit ever added."""
    added = {f"{table}/{action['add']['path']}" for table, action in _actions(das) if "add" in action}
    there = {name for name in _files(das) if "/_delta_log/" not in name}
    return {name for name in there if name.replace("%3D", "=") not in {path.replace("%3D", "=") for path in added}}


def _files(das: Das) -> list[str]:
    """Return all files below `tables/`, named from there."""
    with reaching(join(das.root, "tables")) as (filesystem, path):
        return [name.removeprefix(path).lstrip("/") for name in sorted(filesystem.find(path))]


def _actions(das: Das) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each action of each table's log."""
    with reaching(join(das.root, "tables")) as (filesystem, path):
        for name in _files(das):
            table, _, rest = name.partition("/")
            if rest.startswith("_delta_log/") and rest.endswith(".json"):
                for line in filesystem.cat_file(f"{path}/{name}").decode().splitlines():
                    yield table, json.loads(line)
