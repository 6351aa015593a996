"""Sums of embedding rows out of a shard's flat tensor: what a shard server runs, and offline scoring for all shards.

Legend: B rows of one net, E dims of the looked-up features side by side, S slices of one table.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from exfm.artifact.hot_rows import NO_HOT_ROWS, HotRows
from exfm.artifact.plan import ShardPlan, TableSlice, order_of_slice
from exfm.artifact.rows import Keys, Rows, rows_of_keys
from exfm.errors import BundleError, KeysOutsideSliceError
from exfm.features.batch import Bags
from exfm.schema import Net, Schema, SparseFeature


@dataclass(frozen=True)
class Lookup:
    """A sparse feature whose keys a shard may own, in one slice of the feature's table."""

    feature: SparseFeature
    slice: TableSlice
    dim: int


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


class ShardTables:
    """The slices on one shard, as views into its flat tensor; nothing is copied."""

    def __init__(
        self, flat: Tensor, plan: ShardPlan, schema: Schema, *, shard: int, hot_rows: HotRows = NO_HOT_ROWS
    ) -> None:
        """Map the slices.

        `flat` is uint8 of plan.flat_size_bytes(shard) bytes; `hot_rows` tells the rows of the shard's hot slices.

        Raises: BundleError if `flat` has another type or length.
        """
        expected = plan.flat_size_bytes(shard)
        if flat.dtype != torch.uint8 or flat.numel() != expected:
            raise BundleError(
                f"the tables of shard {shard} are {flat.numel()} x {flat.dtype}, expected {expected} x torch.uint8"
            )
        self._num_rows = {table.name: table.rows for table in schema.tables}
        self._hot_rows = hot_rows
        self._weights = {
            (slice_.table, slice_.kind, slice_.first_row): flat[
                slice_.offset_bytes : slice_.offset_bytes + slice_.size_bytes
            ]
            .view(torch.float32)
            .view(slice_.num_rows, schema.table(slice_.table).dim)
            for slice_ in plan.slices_on(shard)
        }

    def sums(self, lookups: Sequence[Lookup], bags: Sequence[Bags], *, num_rows: int) -> Tensor:
        """Return the sum of each bag's rows; float32 [B, E], columns in the order of `lookups`.

        Raises: KeysOutsideSliceError if a key falls on a row that this shard does not hold.
        """
        sums = [torch.empty((num_rows, 0))]
        sums += [self._sums_of(lookup, bag) for lookup, bag in zip(lookups, bags, strict=True)]
        return torch.cat(sums, dim=1)

    def _sums_of(self, lookup: Lookup, bags: Bags) -> Tensor:
        slice_ = lookup.slice
        rows = rows_of_keys(bags.keys, self._num_rows[slice_.table])
        if slice_.kind == "hot":
            positions = self._hot_rows[slice_.table].positions(rows)
        else:
            positions = rows - slice_.first_row
        outside = (positions < 0) | (positions >= slice_.num_rows)
        if outside.any():
            held = (
                f"the {slice_.num_rows} hot rows"
                if slice_.kind == "hot"
                else f"{slice_.first_key} to {slice_.last_key}"
            )
            raise KeysOutsideSliceError(
                f"feature {lookup.feature.name!r}: {int(outside.sum())} of {len(rows)} keys are outside "
                f"{held}, which this shard holds of table {slice_.table!r}; "
                f"the first is 0x{int(bags.keys[outside.argmax()]):016x}",
                table=slice_.table,
                num_keys=int(outside.sum()),
            )
        weights = self._weights[slice_.table, slice_.kind, slice_.first_row]
        offsets = torch.from_numpy(bags.offsets)
        return functional.embedding_bag(
            torch.from_numpy(positions), weights, offsets, mode="sum", include_last_offset=True
        )


def flatten_tables(
    tables: Mapping[str, Tensor], plan: ShardPlan, *, shard: int, hot_rows: Mapping[str, Rows] = NO_HOT_ROWS
) -> Tensor:
    """Return the flat tensor of one shard from whole tables ([rows, dim], by name).

    `hot_rows` holds, for each table with a hot slice, the row numbers that the slice copies, rising.
    """
    flat = torch.zeros(plan.flat_size_bytes(shard), dtype=torch.uint8)
    for slice_ in plan.slices_on(shard):
        table = tables[slice_.table]
        if slice_.kind == "hot":
            rows = table[torch.from_numpy(hot_rows[slice_.table])]
        else:
            rows = table[slice_.first_row : slice_.first_row + slice_.num_rows]
        flat[slice_.offset_bytes : slice_.offset_bytes + slice_.size_bytes] = (
            rows.to(torch.float32).contiguous().view(torch.uint8).view(-1)
        )
    return flat


class KeyRouter:
    """Tells which of a table's slices answers a key: the hot one if its row is hot, else the one that has that row."""

    def __init__(self, slices: Sequence[TableSlice], *, num_rows: int, hot_rows: HotRows = NO_HOT_ROWS) -> None:
        """Route among a table's slices, in the order of ShardPlan.slices_of; `num_rows` is the whole table's."""
        by_rows = [slice_ for slice_ in slices if slice_.kind == "rows"]
        self._first_keys = np.array([int(slice_.first_key, 16) for slice_ in by_rows], dtype=np.uint64)
        self._hot_rows = hot_rows[slices[-1].table] if len(by_rows) < len(slices) else None
        self._num_rows = num_rows
        self._num_slices = len(slices)
        self._small_int = np.min_scalar_type(len(slices))  # by which numpy sorts in linear time

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
