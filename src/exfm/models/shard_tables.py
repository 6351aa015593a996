"""A shard's tables: rows out of its flat tensor, or their sums.

Legend: B rows of one net, K keys of all their bags, L lookups, E their dims side by side, Q requests.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from exfm.artifact.answers import AnswerForm
from exfm.artifact.hot_rows import NO_HOT_ROWS, HotRows
from exfm.artifact.plan import ShardPlan
from exfm.artifact.rows import Keys, Rows, rows_of_keys
from exfm.errors import BundleError, KeysOutsideSliceError
from exfm.models.device import CPU
from exfm.models.encoding import encode_rows
from exfm.models.lookup import Lookup, LookupBags, lookups_of
from exfm.models.pooled_lookup import EncodedTable, PooledLookup, tables_on
from exfm.schema import NETS, Net, Schema

_ROWS_AT_ONCE = 2**14
"""That are encoded at a time, so that a table's encoding takes little memory beside."""
_MAX_CHOICES = 16
"""Of lookups that rankers leave out, for which a shard is ready at a time."""


@dataclass(frozen=True)
class Found:
    """Bags whose keys a shard holds, and where it does."""

    bags: LookupBags
    tables: "_NetTables | None"
    """Of the lookups that the bags are for; None if they are for none."""
    positions: Rows
    """Of each key among its slice's rows; [K]."""
    offsets: npt.NDArray[np.int64]
    """Where each bag starts, and where the last ends; [L * B + 1]."""
    starts_L: npt.NDArray[np.int64]
    """Where each lookup's keys start."""


class ShardTables:
    """The slices on one shard, looked up where they lie in its flat tensor; on a GPU, in one copy of it."""

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
        slices = plan.slices_on(shard)
        kept = [
            EncodedTable(one.offset_bytes, one.num_rows, schema.table(one.table).dim, one.encoding) for one in slices
        ]
        there, placed = tables_on(device, flat, kept)
        self._make = partial(
            _NetTables,
            flat,
            there=there,
            placed={one.offset_bytes: table for one, table in zip(kept, placed, strict=True)},
            schema=schema,
            hot_rows=hot_rows,
            form=sums,
        )
        self._all = {net: self._make(lookups) for net, lookups in self._lookups.items() if lookups}
        self._some: dict[tuple[Net, tuple[int, ...]], _NetTables] = {}

    def sums(self, net: Net, bags: LookupBags) -> Tensor:
        """Return the sum of each bag's rows; [B, E], on the tables' device.

        Bags and columns are in the order of `lookups_of` the shard and net, of which there are some.

        Raises: KeysOutsideSliceError if a key falls on a row that this shard does not hold.
        """
        of_net = self._asked(net, bags)
        return of_net.sums([of_net.find(bags)]) if of_net is not None else torch.empty((bags.num_rows, 0))

    def find(self, net: Net, bags: LookupBags) -> Found:
        """Return where the bags' rows are, for `answers`.

        Raises: as `sums`.
        """
        of_net = self._asked(net, bags)
        if of_net is not None:
            return of_net.find(bags)
        none = np.empty(0, dtype=np.int64)
        return Found(bags, None, positions=none, offsets=none, starts_L=none)

    def answer(self, found: Found) -> Tensor:
        """Return what `sums` gives; or, if rows are to travel and take less, uint8 [n]: rows as they are kept.

        They are those of the bags, in the order of the keys (exfm.models.carried_rows adds them up).
        """
        return torch.empty((found.bags.num_rows, 0)) if found.tables is None else found.tables.answer(found)

    def answers(self, found: Sequence[Found]) -> list[Tensor]:
        """Return the answer to each of several requests for one net; the sums of the same lookups are one call's."""
        answers: dict[int, Tensor] = {}
        of_tables: defaultdict[_NetTables, list[int]] = defaultdict(list)
        for place, one in enumerate(found):
            if one.tables is None or one.tables.rows_travel(one.bags):
                answers[place] = self.answer(one)
            else:
                of_tables[one.tables].append(place)
        for tables, places in of_tables.items():
            summed = [found[place] for place in places]
            parts = torch.split(tables.sums(summed).cpu(), [one.bags.num_rows for one in summed])
            answers.update(zip(places, parts, strict=True))
        return [answers[place] for place in range(len(found))]

    def answer_bytes(self, net: Net, bags: LookupBags) -> int:
        """Return what an answer takes."""
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
        there: Tensor,
        placed: Mapping[int, EncodedTable],
        schema: Schema,
        hot_rows: HotRows,
        form: AnswerForm,
    ) -> None:
        """Look up in `there`, where `placed` tells which table was at which byte of `flat`."""
        self._lookups = lookups
        slices = [lookup.slice for lookup in lookups]
        self._table_rows_L = np.array([schema.table(slice_.table).rows for slice_ in slices], dtype=np.uint64)
        self._first_row_L = np.array([slice_.first_row for slice_ in slices], dtype=np.int64)
        self._held_L = np.array([slice_.num_rows for slice_ in slices], dtype=np.uint64)
        self._hot = [(place, hot_rows[s.table]) for place, s in enumerate(slices) if s.kind == "hot"]
        self._pooled = PooledLookup(
            there, [placed[slice_.offset_bytes] for slice_ in slices], sums="fp16" if form == "fp16" else "fp32"
        )
        self._form = form
        self._row_bytes_L = np.array([one.row_bytes for one in lookups])
        self._sums_row_bytes = (2 if form == "fp16" else 4) * sum(one.dim for one in lookups)
        self._kept_L = [
            flat[one.slice.offset_bytes :][: one.slice.size_bytes].numpy().view(np.dtype((np.void, one.row_bytes)))
            for one in lookups
        ]

    def answer(self, found: Found) -> Tensor:
        return self._rows(found) if self.rows_travel(found.bags) else self.sums([found]).cpu()

    def answer_bytes(self, bags: LookupBags) -> int:
        return bags.rows_bytes(self._row_bytes_L) if self.rows_travel(bags) else self._sums_bytes(bags)

    def rows_travel(self, bags: LookupBags) -> bool:
        return self._form == "rows" and bags.rows_bytes(self._row_bytes_L) < self._sums_bytes(bags)

    def _sums_bytes(self, bags: LookupBags) -> int:
        return bags.num_rows * self._sums_row_bytes

    def sums(self, found: Sequence[Found]) -> Tensor:
        """Return the sums of one request after the other; [rows of all, E]."""
        if len(found) == 1:
            return self._pooled.sums(found[0].positions, found[0].offsets)
        return self._pooled.sums(*_joined(found))

    def _rows(self, found: Found) -> Tensor:
        bytes_L = found.bags.num_keys * self._row_bytes_L
        rows = np.empty(bytes_L.sum(), dtype=np.uint8)
        own_L = np.split(found.positions, found.starts_L[1:])
        place_L = np.split(rows, np.cumsum(bytes_L)[:-1])
        for kept, own, place in zip(self._kept_L, own_L, place_L, strict=True):
            if len(own):
                np.take(kept, own, out=place.view(kept.dtype), mode="clip")  # they were checked; others copy once more
        return torch.from_numpy(rows)

    def find(self, bags: LookupBags) -> Found:
        offsets = _offsets_of(bags.lengths_LB)
        bounds_L = offsets[:: bags.num_rows] if bags.num_rows else np.zeros(len(self._lookups) + 1, dtype=np.int64)
        starts_L, ends_L = bounds_L[:-1], bounds_L[1:]
        counts_L = ends_L - starts_L
        positions = rows_of_keys(bags.keys, np.repeat(self._table_rows_L, counts_L))
        positions -= np.repeat(self._first_row_L, counts_L)
        for place, rows in self._hot:
            own = slice(starts_L[place], ends_L[place])
            positions[own] = rows.positions(positions[own])
        self._check(positions, bags.keys, starts_L, counts_L)
        return Found(bags, self, positions=positions, offsets=offsets, starts_L=starts_L)

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


def _offsets_of(lengths_LB: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    offsets = np.zeros(lengths_LB.size + 1, dtype=np.int64)
    np.cumsum(lengths_LB, out=offsets[1:])
    return offsets


def _joined(found: Sequence[Found]) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Return positions and offsets of several requests for the same lookups as of one: each lookup's side by side."""
    counts_QL = np.stack([one.bags.num_keys for one in found])
    counts_L = counts_QL.sum(axis=0)
    starts_QL = np.cumsum(counts_L) - counts_L + np.cumsum(counts_QL, axis=0) - counts_QL
    positions = np.empty(counts_L.sum(), dtype=np.int64)
    for one, starts_L in zip(found, starts_QL, strict=True):
        moved = np.repeat(starts_L - one.starts_L, one.bags.num_keys)
        positions[np.arange(len(moved)) + moved] = one.positions
    return positions, _offsets_of(np.concatenate([one.bags.lengths_LB for one in found], axis=1))


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
