"""Embedding rows out of a shard's flat tensor, or their sums: what a shard server runs, and offline scoring for all
shards.

Legend: B rows of one net, L lookups, E their dims side by side, S slices of one table.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from exfm.artifact.answers import AnswerForm
from exfm.artifact.hot_rows import NO_HOT_ROWS, HotRows
from exfm.artifact.plan import ShardPlan, TableSlice, order_of_slice, row_bytes
from exfm.artifact.rows import Keys, Rows, rows_of_keys
from exfm.errors import BundleError, KeysOutsideSliceError
from exfm.features.batch import Bags
from exfm.models.device import CPU
from exfm.models.encoding import encode_rows
from exfm.models.pooled_lookup import EncodedTable, PooledLookup
from exfm.schema import NETS, Net, Schema, SparseFeature

_ROWS_AT_ONCE = 2**14
"""That are encoded at a time, so that a table's encoding takes little memory beside."""
_MAX_CHOICES = 16
"""Of lookups that rankers leave out, for which a shard is ready at a time."""


@dataclass(frozen=True)
class Lookup:
    """A sparse feature whose keys a shard may own, in one slice of the feature's table."""

    feature: SparseFeature
    slice: TableSlice
    dim: int

    @property
    def row_bytes(self) -> int:
        """Return what a row takes as it is kept."""
        return row_bytes(self.dim, self.slice.encoding)


@dataclass(frozen=True)
class LookupBags:
    """What a shard is asked for of one net: a bag of keys for each of its lookups and rows."""

    keys: Keys
    """Of the first lookup's bags, row after row, then of the next lookup's."""
    lengths_LB: npt.NDArray[np.int32]
    """Keys of each bag; their sum is the number of keys."""
    only: tuple[int, ...] | None = None
    """The lookups' places among all that the shard has for the net, rising; None: these are all."""

    @classmethod
    def of(cls, bags: Sequence[Bags], *, only: tuple[int, ...] | None = None) -> Self:
        """Return these lookups' bags, of one lookup at least."""
        offsets_LB = np.stack([one.offsets for one in bags])
        keys = np.concatenate([one.keys for one in bags]) if len(bags) > 1 else bags[0].keys
        return cls(keys=keys, lengths_LB=np.diff(offsets_LB, axis=1).astype(np.int32), only=only)

    @classmethod
    def of_none(cls, num_rows: int) -> Self:
        """Return what asks for none of a shard's lookups."""
        return cls(keys=np.empty(0, dtype=np.uint64), lengths_LB=np.empty((0, num_rows), dtype=np.int32), only=())

    @property
    def num_rows(self) -> int:
        """Return the rows, B."""
        num_rows: int = self.lengths_LB.shape[1]
        return num_rows

    @cached_property
    def num_keys(self) -> npt.NDArray[np.int64]:
        """Return the keys of each lookup; shape [L]."""
        num_keys_L: npt.NDArray[np.int64] = self.lengths_LB.sum(axis=1, dtype=np.int64)
        return num_keys_L

    def rows_bytes(self, row_bytes_L: npt.NDArray[np.int64]) -> int:
        """Return what the keys' rows take, if one of each lookup takes so much."""
        return int(self.num_keys @ row_bytes_L)


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
    """Return where these lookups' features and tables are among others in the same order; None if these are all."""
    names = {(lookup.feature.name, lookup.slice.kind, lookup.slice.first_row) for lookup in lookups}
    places = (
        place for place, one in enumerate(among) if (one.feature.name, one.slice.kind, one.slice.first_row) in names
    )
    return None if len(lookups) == len(among) else tuple(places)


class ShardTables:
    """The slices on one shard, looked up where they lie in its flat tensor; nothing is copied."""

    def __init__(
        self,
        flat: Tensor,
        plan: ShardPlan,
        schema: Schema,
        *,
        shard: int,
        hot_rows: HotRows = NO_HOT_ROWS,
        sums: AnswerForm = "fp32",
        device: torch.device = CPU,
    ) -> None:
        """Map the slices, or copy them to another device; `sums` tells the form of answers.

        `flat` is uint8 of plan.flat_size_bytes(shard) bytes; `hot_rows` tells the rows of the shard's hot slices.

        Raises: BundleError if `flat` has another type or length; ConfigError if FBGEMM is not installed.
        """
        expected = plan.flat_size_bytes(shard)
        if flat.dtype != torch.uint8 or flat.numel() != expected:
            raise BundleError(
                f"the tables of shard {shard} are {flat.numel()} x {flat.dtype}, expected {expected} x torch.uint8"
            )
        self._lookups = {net: lookups_of(plan, schema, shard=shard, net=net) for net in NETS}
        self._make = partial(_NetTables, flat, schema=schema, hot_rows=hot_rows, form=sums, device=device)
        self._all = {net: self._make(lookups) for net, lookups in self._lookups.items() if lookups}
        self._some: dict[tuple[Net, tuple[int, ...]], _NetTables] = {}

    def sums(self, net: Net, bags: LookupBags) -> Tensor:
        """Return the sum of each bag's rows; [B, E], on the tables' device.

        Bags and columns are in the order of `lookups_of` the shard and net, of which there are some.

        Raises: KeysOutsideSliceError if a key falls on a row that this shard does not hold.
        """
        of_net = self._asked(net, bags)
        return of_net.sums(bags) if of_net is not None else torch.empty((bags.num_rows, 0))

    def answer(self, net: Net, bags: LookupBags) -> Tensor:
        """Return what `sums` gives; or, if rows are to travel and take less, uint8 [n]: rows as they are kept.

        They are those of the bags, in the order of the keys (exfm.models.carried_rows adds them up).

        Raises: as `sums`.
        """
        of_net = self._asked(net, bags)
        return of_net.answer(bags) if of_net is not None else torch.empty((bags.num_rows, 0))

    def answer_bytes(self, net: Net, bags: LookupBags) -> int:
        """Return what `answer` takes."""
        of_net = self._asked(net, bags)
        return of_net.answer_bytes(bags) if of_net is not None else 0

    def _asked(self, net: Net, bags: LookupBags) -> "_NetTables | None":
        """Return the lookups that bags are for. Rankers leave out the same ones for life, so they are made once."""
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
        flat: Tensor,
        lookups: Sequence[Lookup],
        *,
        schema: Schema,
        hot_rows: HotRows,
        form: AnswerForm,
        device: torch.device,
    ) -> None:
        self._lookups = lookups
        slices = [lookup.slice for lookup in lookups]
        self._table_rows_L = np.array([schema.table(slice_.table).rows for slice_ in slices], dtype=np.uint64)
        self._first_row_L = np.array([slice_.first_row for slice_ in slices], dtype=np.int64)
        self._held_L = np.array([slice_.num_rows for slice_ in slices], dtype=np.uint64)
        self._hot = [(place, hot_rows[s.table]) for place, s in enumerate(slices) if s.kind == "hot"]
        self._pooled = PooledLookup(
            flat,
            [EncodedTable(one.slice.offset_bytes, one.slice.num_rows, one.dim, one.slice.encoding) for one in lookups],
            sums="fp16" if form == "fp16" else "fp32",
            device=device,
        )
        self._form = form
        self._row_bytes_L = np.array([one.row_bytes for one in lookups])
        self._sums_row_bytes = (2 if form == "fp16" else 4) * sum(one.dim for one in lookups)
        self._kept_L = [
            flat[one.slice.offset_bytes :][: one.slice.size_bytes].numpy().view(np.dtype((np.void, one.row_bytes)))
            for one in lookups
        ]

    def answer(self, bags: LookupBags) -> Tensor:
        return self._rows(bags) if self._rows_travel(bags) else self.sums(bags).cpu()

    def answer_bytes(self, bags: LookupBags) -> int:
        return bags.rows_bytes(self._row_bytes_L) if self._rows_travel(bags) else self._sums_bytes(bags)

    def _rows_travel(self, bags: LookupBags) -> bool:
        return self._form == "rows" and bags.rows_bytes(self._row_bytes_L) < self._sums_bytes(bags)

    def _sums_bytes(self, bags: LookupBags) -> int:
        return bags.num_rows * self._sums_row_bytes

    def sums(self, bags: LookupBags) -> Tensor:
        positions, offsets, _ = self._positions(bags)
        return self._pooled.sums(positions, offsets)

    def _rows(self, bags: LookupBags) -> Tensor:
        positions, _, starts_L = self._positions(bags)
        bytes_L = bags.num_keys * self._row_bytes_L
        found = np.empty(bytes_L.sum(), dtype=np.uint8)
        places = zip(np.split(positions, starts_L[1:]), np.split(found, np.cumsum(bytes_L)[:-1]), strict=True)
        for kept, (own, place) in zip(self._kept_L, places, strict=True):
            if len(own):
                np.take(kept, own, out=place.view(kept.dtype), mode="clip")  # they were checked; others copy once more
        return torch.from_numpy(found)

    def _positions(self, bags: LookupBags) -> tuple[Rows, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return each key's place among its slice's rows, where each bag starts and the last ends, and each lookup."""
        offsets = np.zeros(bags.lengths_LB.size + 1, dtype=np.int64)
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
        return positions, offsets, starts_L

    def _check(self, positions: Rows, keys: Keys, starts_L: Rows, counts_L: Rows) -> None:
        is_asked_L = counts_L > 0  # reduceat knows no empty runs
        outermost = np.maximum.reduceat(positions.view(np.uint64), starts_L[is_asked_L])  # a negative one is large
        is_wrong = outermost >= self._held_L[is_asked_L]
        if not is_wrong.any():
            return
        place = int(np.flatnonzero(is_asked_L)[is_wrong.argmax()])
        lookup = self._lookups[place]
        slice_ = lookup.slice
        asked = slice(starts_L[place], starts_L[place] + counts_L[place])
        outside = (positions[asked] < 0) | (positions[asked] >= slice_.num_rows)
        held = f"the {slice_.num_rows} hot rows" if slice_.kind == "hot" else f"{slice_.first_key} to {slice_.last_key}"
        raise KeysOutsideSliceError(
            f"feature {lookup.feature.name!r}: {int(outside.sum())} of {len(outside)} keys are outside "
            f"{held}, which this shard holds of table {slice_.table!r}; "
            f"the first is 0x{int(keys[asked][outside.argmax()]):016x}",
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
