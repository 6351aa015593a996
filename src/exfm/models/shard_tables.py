"""A shard's tables: pooled embeddings from the rows of its flat tensor.

Legend: B rows of one net, L lookups, E their dims side by side.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from exfm.artifact.hot_rows import NO_HOT_ROWS, HotRows
from exfm.artifact.plan import ShardPlan
from exfm.artifact.rows import Keys, Rows, rows_of_keys
from exfm.errors import BundleError, KeysOutsideSliceError
from exfm.models.config import PooledPrecision
from exfm.models.device import CPU
from exfm.models.encoding import encode_rows
from exfm.models.lookup import Lookup, LookupBags, lookups_of
from exfm.models.pooled_lookup import GPU_ROW_ALIGNMENT, EncodedTable, PooledLookup, with_aligned_rows
from exfm.schema import NETS, Net, Schema

_ROWS_AT_ONCE = 2**14
"""Rows that are encoded at a time, which bounds memory."""
_MAX_CHOICES = 16
"""Most sets of lookups that a shard keeps prepared: rankers with their own tables send fewer lookups."""


class ShardTables:
    """The slices on one shard, read in its flat tensor without a copy, or on a GPU copied once."""

    def __init__(
        self,
        flat: Tensor,
        plan: ShardPlan,
        schema: Schema,
        *,
        shard: int,
        hot_rows: HotRows = NO_HOT_ROWS,
        precision: PooledPrecision = "fp32",
        device: torch.device = CPU,
    ) -> None:
        """Map the slices, or copy them to another device; `precision` is that of pooled embeddings.

        `flat` is uint8 of plan.flat_size_bytes(shard) bytes; `hot_rows` has the rows of the shard's hot slices.

        Raises: BundleError if `flat` has another type or length; ConfigError if FBGEMM is not installed.
        """
        expected = plan.flat_size_bytes(shard)
        if flat.dtype != torch.uint8 or flat.numel() != expected:
            raise BundleError(
                f"the tables of shard {shard} are {flat.numel()} x {flat.dtype}, expected {expected} x torch.uint8"
            )
        self._lookups = {net: lookups_of(plan, schema, shard=shard, net=net) for net in NETS}
        slices = plan.slices_on(shard)
        kept = [
            EncodedTable(one.offset_bytes, one.num_rows, schema.table(one.table).dim, one.encoding) for one in slices
        ]
        there, placed = flat, kept
        if device.type != "cpu":
            there, placed = with_aligned_rows(flat, kept, alignment=GPU_ROW_ALIGNMENT, device=device)
        self._make = partial(
            _NetTables,
            there=there,
            placed={one.offset_bytes: table for one, table in zip(kept, placed, strict=True)},
            schema=schema,
            hot_rows=hot_rows,
            precision=precision,
        )
        self._all = {net: self._make(lookups) for net, lookups in self._lookups.items() if lookups}
        self._some: dict[tuple[Net, tuple[int, ...]], _NetTables] = {}

    def pooled(self, net: Net, bags: LookupBags) -> Tensor:
        """Return the sum of each bag's rows; [B, E], on the tables' device.

        Bags and columns are in the order of `lookups_of` the shard and net, of which there are some.

        Raises: KeysOutsideSliceError if a key falls on a row that this shard does not hold.
        """
        of_net = self._tables_for(net, bags)
        return of_net.pooled(bags) if of_net is not None else torch.empty((bags.num_rows, 0))

    def pooled_bytes(self, net: Net, bags: LookupBags) -> int:
        """Return the size of these bags' pooled embeddings."""
        of_net = self._tables_for(net, bags)
        return of_net.pooled_bytes(bags) if of_net is not None else 0

    def _tables_for(self, net: Net, bags: LookupBags) -> "_NetTables | None":
        """Return the lookups that bags are for, made once: a ranker always leaves out the same ones."""
        if bags.only is None:
            return self._all[net]
        if not bags.only:
            return None
        if (net, bags.only) not in self._some:
            if len(self._some) == _MAX_CHOICES:
                self._some.clear()
            self._some[net, bags.only] = self._make([self._lookups[net][place] for place in bags.only])
        return self._some[net, bags.only]


class _NetTables:
    """What a shard looks up for one net, by one call."""

    def __init__(
        self,
        lookups: Sequence[Lookup],
        *,
        there: Tensor,
        placed: Mapping[int, EncodedTable],
        schema: Schema,
        hot_rows: HotRows,
        precision: PooledPrecision,
    ) -> None:
        """Look up in `there`; `placed` has the tables by their byte in the shard's file."""
        self._lookups = lookups
        slices = [lookup.slice for lookup in lookups]
        self._table_rows_L = np.array([schema.table(slice_.table).rows for slice_ in slices], dtype=np.uint64)
        self._first_row_L = np.array([slice_.first_row for slice_ in slices], dtype=np.int64)
        self._held_L = np.array([slice_.num_rows for slice_ in slices], dtype=np.uint64)
        self._hot = [(place, hot_rows[s.table]) for place, s in enumerate(slices) if s.kind == "hot"]
        self._lookup = PooledLookup(there, [placed[slice_.offset_bytes] for slice_ in slices], precision=precision)
        self._pooled_row_bytes = (2 if precision == "fp16" else 4) * sum(one.dim for one in lookups)

    def pooled_bytes(self, bags: LookupBags) -> int:
        return bags.num_rows * self._pooled_row_bytes

    def pooled(self, bags: LookupBags) -> Tensor:
        offsets = np.zeros(bags.lengths_LB.size + 1, dtype=np.int64)  # where each bag starts, and where the last ends
        np.cumsum(bags.lengths_LB, out=offsets[1:])
        bounds_L = offsets[:: bags.num_rows] if bags.num_rows else np.zeros(len(self._lookups) + 1, dtype=np.int64)
        starts_L, ends_L = bounds_L[:-1], bounds_L[1:]
        counts_L = ends_L - starts_L
        positions = rows_of_keys(bags.keys, np.repeat(self._table_rows_L, counts_L))
        positions -= np.repeat(self._first_row_L, counts_L)
        for place, rows in self._hot:
            own = slice(starts_L[place], ends_L[place])
            positions[own] = rows.positions(positions[own])
        self._check(positions, bags.keys, starts_L, counts_L)
        return self._lookup.pooled(positions, offsets)

    def _check(self, positions: Rows, keys: Keys, starts_L: Rows, counts_L: Rows) -> None:
        is_used_L = counts_L > 0  # reduceat cannot handle empty runs
        # As unsigned, a negative position is large.
        outermost = np.maximum.reduceat(positions.view(np.uint64), starts_L[is_used_L])
        is_wrong = outermost >= self._held_L[is_used_L]
        if not is_wrong.any():
            return
        place = int(np.flatnonzero(is_used_L)[is_wrong.argmax()])
        lookup = self._lookups[place]
        slice_ = lookup.slice
        own = slice(starts_L[place], starts_L[place] + counts_L[place])
        outside = (positions[own] < 0) | (positions[own] >= slice_.num_rows)
        held = f"the {slice_.num_rows} hot rows" if slice_.kind == "hot" else f"{slice_.first_key} to {slice_.last_key}"
        raise KeysOutsideSliceError(
            f"feature {lookup.feature.name!r}: {int(outside.sum())} of {len(outside)} keys are outside "
            f"{held}, which this shard holds of table {slice_.table!r}; "
            f"the first is 0x{int(keys[own][outside.argmax()]):016x}",
            table=slice_.table,
            num_keys=int(outside.sum()),
        )


def flatten_tables(
    tables: Mapping[str, Tensor], plan: ShardPlan, *, shard: int, hot_rows: Mapping[str, Rows] = NO_HOT_ROWS
) -> Tensor:
    """Return the flat tensor of one shard from whole tables ([rows, dim], by name), encoded as the plan says.

    `hot_rows` holds, for each table with a hot slice, the row numbers that the slice copies, rising.

    Raises: BundleError if the encoding cannot keep a table's numbers.
    """
    flat = torch.zeros(plan.flat_size_bytes(shard), dtype=torch.uint8)
    for slice_ in plan.slices_on(shard):
        table = tables[slice_.table]
        if slice_.kind == "hot":
            rows = table[torch.from_numpy(hot_rows[slice_.table])]
        else:
            rows = table[slice_.first_row : slice_.first_row + slice_.num_rows]
        encoded = flat[slice_.offset_bytes : slice_.offset_bytes + slice_.size_bytes].view(slice_.num_rows, -1)
        for some_rows, place in zip(torch.split(rows, _ROWS_AT_ONCE), torch.split(encoded, _ROWS_AT_ONCE), strict=True):
            place.copy_(encode_rows(some_rows, slice_.encoding, table=slice_.table))
    return flat
