"""Sums of embedding rows out of a shard's flat tensor: what a shard server runs, and offline scoring for all shards.

Legend: B rows of one net, E dims of the looked-up features side by side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from exfm.artifact.plan import ShardPlan, TableSlice
from exfm.artifact.rows import rows_of_keys
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
    return tuple(
        Lookup(feature=feature, slice=slice_, dim=schema.table(feature.table).dim)
        for feature in schema.sparse_of(net)
        for slice_ in plan.slices_of(feature.table)
        if slice_.shard == shard
    )


class ShardTables:
    """The slices on one shard, as views into its flat tensor; nothing is copied."""

    def __init__(self, flat: Tensor, plan: ShardPlan, schema: Schema, *, shard: int) -> None:
        """Map the slices.

        `flat` is uint8 of plan.flat_size_bytes(shard) bytes.

        Raises: BundleError if `flat` has another type or length.
        """
        expected = plan.flat_size_bytes(shard)
        if flat.dtype != torch.uint8 or flat.numel() != expected:
            raise BundleError(
                f"the tables of shard {shard} are {flat.numel()} x {flat.dtype}, expected {expected} x torch.uint8"
            )
        self._num_rows = {table.name: table.rows for table in schema.tables}
        self._weights = {
            (slice_.table, slice_.first_row): flat[slice_.offset_bytes : slice_.offset_bytes + slice_.size_bytes]
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
        rows = rows_of_keys(bags.keys, self._num_rows[slice_.table]) - slice_.first_row
        outside = (rows < 0) | (rows >= slice_.num_rows)
        if outside.any():
            raise KeysOutsideSliceError(
                f"feature {lookup.feature.name!r}: {int(outside.sum())} of {len(rows)} keys are outside "
                f"{slice_.first_key} to {slice_.last_key}, which this shard holds of table {slice_.table!r}; "
                f"the first is 0x{int(bags.keys[outside.argmax()]):016x}",
                table=slice_.table,
                num_keys=int(outside.sum()),
            )
        weights = self._weights[slice_.table, slice_.first_row]
        offsets = torch.from_numpy(bags.offsets)
        return functional.embedding_bag(torch.from_numpy(rows), weights, offsets, mode="sum", include_last_offset=True)


def flatten_tables(tables: Mapping[str, Tensor], plan: ShardPlan, *, shard: int) -> Tensor:
    """Return the flat tensor of one shard from whole tables ([rows, dim], by name)."""
    flat = torch.zeros(plan.flat_size_bytes(shard), dtype=torch.uint8)
    for slice_ in plan.slices_on(shard):
        rows = tables[slice_.table][slice_.first_row : slice_.first_row + slice_.num_rows]
        flat[slice_.offset_bytes : slice_.offset_bytes + slice_.size_bytes] = (
            rows.to(torch.float32).contiguous().view(torch.uint8).view(-1)
        )
    return flat


def owned_bags(bags: Bags, slice_: TableSlice) -> Bags:
    """Return those keys of each bag that a slice owns."""
    first, last = np.uint64(int(slice_.first_key, 16)), np.uint64(int(slice_.last_key, 16))
    owned = (bags.keys >= first) & (bags.keys <= last)
    if owned.all():
        return bags
    before = np.zeros(len(owned) + 1, dtype=np.int64)
    np.cumsum(owned, out=before[1:])
    return Bags(keys=bags.keys[owned], offsets=before[bags.offsets])
