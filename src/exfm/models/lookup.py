"""Lookups of a shard, and the bags of keys that belong to it.

Legend: B rows of one net, L lookups, S slices of one table.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from exfm.artifact.hot_rows import NO_HOT_ROWS, HotRows
from exfm.artifact.plan import ShardPlan, TableSlice, order_of_slice
from exfm.artifact.rows import Keys, rows_of_keys
from exfm.features.batch import Bags
from exfm.schema import Net, Schema, SparseFeature


@dataclass(frozen=True)
class Lookup:
    """A sparse feature whose keys a shard may own, in one slice of the feature's table."""

    feature: SparseFeature
    slice: TableSlice
    dim: int


@dataclass(frozen=True)
class LookupBags:
    """A request to a shard for one net: a bag of keys for each of its lookups and rows."""

    keys: Keys
    """Keys of the first lookup's bags, row after row, then of the next lookup's."""
    lengths_LB: npt.NDArray[np.int32]
    """Keys of each bag; their sum is the number of keys."""
    only: tuple[int, ...] | None = None
    """Positions of these lookups among all lookups of the shard and net, ascending; None: all."""

    @classmethod
    def of(cls, bags: Sequence[Bags], *, only: tuple[int, ...] | None = None) -> Self:
        """Return the bags of these lookups, at least one."""
        offsets_LB = np.stack([one.offsets for one in bags])
        keys = np.concatenate([one.keys for one in bags]) if len(bags) > 1 else bags[0].keys
        return cls(keys=keys, lengths_LB=np.diff(offsets_LB, axis=1).astype(np.int32), only=only)

    @classmethod
    def of_none(cls, num_rows: int) -> Self:
        """Return a request for none of a shard's lookups."""
        return cls(keys=np.empty(0, dtype=np.uint64), lengths_LB=np.empty((0, num_rows), dtype=np.int32), only=())

    @property
    def num_rows(self) -> int:
        """Return the rows, B."""
        num_rows: int = self.lengths_LB.shape[1]
        return num_rows


def lookups_of(plan: ShardPlan, schema: Schema, *, shard: int, net: Net) -> tuple[Lookup, ...]:
    """Return what a shard looks up for one net: the order of a request's bags and of an answer's columns."""
    held: defaultdict[str, list[TableSlice]] = defaultdict(list)
    for slice_ in sorted(plan.slices_on(shard), key=order_of_slice):
        held[slice_.table].append(slice_)
    return tuple(
        Lookup(feature=feature, slice=slice_, dim=schema.table(feature.table).dim)
        for feature in schema.sparse_of(net)
        for slice_ in held[feature.table]
    )


def places_of(lookups: Sequence[Lookup], among: Sequence[Lookup]) -> tuple[int, ...] | None:
    """Return the positions of these lookups among others in the same order; None if they are all of them."""
    names = {(lookup.feature.name, lookup.slice.kind, lookup.slice.first_row) for lookup in lookups}
    places = (
        place for place, one in enumerate(among) if (one.feature.name, one.slice.kind, one.slice.first_row) in names
    )
    return None if len(lookups) == len(among) else tuple(places)


class KeyRouter:
    """Finds the slice of a table for a key: the hot one if the key's row is hot, else the one that has that row."""

    def __init__(self, slices: Sequence[TableSlice], *, num_rows: int, hot_rows: HotRows = NO_HOT_ROWS) -> None:
        """Route among a table's slices, in the order of ShardPlan.by_table; `num_rows` is the whole table's."""
        by_rows = [slice_ for slice_ in slices if slice_.kind == "rows"]
        self._first_keys = np.array([int(slice_.first_key, 16) for slice_ in by_rows], dtype=np.uint64)
        self._hot_rows = hot_rows[slices[-1].table] if len(by_rows) < len(slices) else None
        self._num_rows = num_rows
        self._num_slices = len(slices)
        self._small_int = np.min_scalar_type(len(slices))  # numpy sorts this type in linear time

    def owners(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Return the place among the slices of the one that answers each key; shape of `keys`."""
        owners = np.searchsorted(self._first_keys, keys, side="right") - 1
        if self._hot_rows is not None:
            owners[self._hot_rows.contain(rows_of_keys(keys, self._num_rows))] = self._num_slices - 1
        return owners

    def split(self, bags: Bags) -> list[Bags]:
        """Return the keys of each bag that each slice answers."""
        if self._num_slices == 1:
            return [bags]
        owners = self.owners(bags.keys)
        # One stable sort by owner, however many slices there are: a mask for each of 64 took eight times as long.
        keys = bags.keys[np.argsort(owners.astype(self._small_int), kind="stable")]
        num_bags = len(bags.offsets) - 1
        bag_of_key = np.repeat(np.arange(num_bags), bags.lengths)
        lengths_SB = np.bincount(owners * num_bags + bag_of_key, minlength=self._num_slices * num_bags)
        offsets_SB = np.zeros((self._num_slices, num_bags + 1), dtype=np.int64)
        np.cumsum(lengths_SB.reshape(self._num_slices, num_bags), axis=1, out=offsets_SB[:, 1:])
        ends = np.cumsum(offsets_SB[:, -1])
        return [
            Bags(keys=keys[end - offsets_B[-1] : end], offsets=offsets_B)
            for end, offsets_B in zip(ends, offsets_SB, strict=True)
        ]
