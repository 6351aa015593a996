"""Ids of each table: how many are new in a window, and how many of all so far share a row."""

from collections.abc import Iterable, Mapping

import numpy as np

from exfm.artifact.manifest import Window
from exfm.artifact.rows import Keys, Rows, rows_of_keys
from exfm.features.batch import NetBatches
from exfm.schema import NETS, Schema
from exfm.training.manifest import TableIds


class SeenIds:
    """The distinct keys of each table: 8 bytes a key."""

    def __init__(self, schema: Schema) -> None:
        self._tables = schema.tables
        self._features = {
            table.name: [(net, f.name) for net in NETS for f in schema.sparse_of(net) if f.table == table.name]
            for table in schema.tables
        }
        self._seen = {table.name: np.empty(0, dtype=np.uint64) for table in schema.tables}
        self._unlearned: dict[int, dict[str, Keys]] = {}

    def add(self, window: Window, batches: NetBatches) -> dict[str, TableIds]:
        """Take the ids of a window's examples, and return each table's figures."""
        self._unlearned[window.index] = {}
        return {table.name: self._add(window, batches, table.name, table.rows) for table in self._tables}

    def note_learned(self, window: Window) -> None:
        """Count the window's keys among those of `state`."""
        self._unlearned.pop(window.index, None)

    def state(self) -> dict[str, Keys]:
        """Return the keys of all windows but those that were not learned: a later run adds these again."""
        return {
            table: np.setdiff1d(keys, _joined(new[table] for new in self._unlearned.values()), assume_unique=True)
            for table, keys in self._seen.items()
        }

    def restore(self, state: Mapping[str, Keys]) -> None:
        """Go on from what `state` gave."""
        self._seen = dict(state)

    def _add(self, window: Window, batches: NetBatches, table: str, num_rows: int) -> TableIds:
        ids = _joined(batches.of(net).bags[feature].keys for net, feature in self._features[table])
        keys, counts = np.unique(ids, return_counts=True)
        seen = self._seen[table]
        positions = np.searchsorted(seen, keys)
        is_new = np.append(seen, np.uint64(0))[positions] != keys
        is_new |= positions == len(seen)
        new = self._unlearned[window.index][table] = keys[is_new]
        seen = self._seen[table] = np.insert(seen, positions[is_new], new)
        return TableIds(
            num_ids=len(ids),
            unseen=float(counts[is_new].sum() / len(ids)) if len(ids) else None,
            num_keys=len(seen),
            collisions=_share_of_shared_rows(rows_of_keys(seen, num_rows)) if len(seen) else None,
        )


def _share_of_shared_rows(rows: Rows) -> float:
    """Return the share of ordered rows that are equal to a neighbour."""
    is_same = np.zeros(len(rows) + 1, dtype=bool)
    is_same[1:-1] = rows[1:] == rows[:-1]
    return float((is_same[1:] | is_same[:-1]).mean())


def _joined(parts: Iterable[Keys]) -> Keys:
    return np.concatenate([np.empty(0, dtype=np.uint64), *parts])
