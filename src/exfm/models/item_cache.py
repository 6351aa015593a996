"""Items met before: what all tables gave for them, so that no shard need be asked for them again.

What is kept of an item is its pooled embeddings, all features side by side, by a hash of its keys: an item is met again
if all of its ids are the same. In another order, a bag's sum may differ by its rounding. Hashes are 63 bits, of factors
that each process draws anew, so that nobody knows which ids look like another item's; by chance a new item is taken for
one of C kept ones once in 2**63 / C times.

An item is kept when it comes up again: most come once, and would drive out those that come back. Slots come in sets of
WAYS, of which the one that was not met for longest is given away.

Legend: N items, M of them new, F features, E dims of all features, S sets, W ways.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exfm.artifact.rows import Keys, rows_of_keys
from exfm.errors import ConfigError
from exfm.features.batch import Batch, NetBatches
from exfm.schema import Schema

WAYS = 8
"""Slots of a set: their hashes are a cache line."""

RECENT = 4
"""Hashes of items that came up of late, for each slot."""

Floats = npt.NDArray[np.float32]

_SHIFT, _ONE = np.uint64(32), np.uint64(1)


@dataclass(frozen=True)
class Recalled:
    """What is known of a batch's items."""

    asked: NetBatches
    """The batch without the items that are known."""
    is_new_N: npt.NDArray[np.bool_]
    hashes_M: Keys
    """Of the new ones."""
    rows_NE: Floats
    """Embeddings of those that are known, and anything in the place of new ones; no rows if all are new."""

    def completed(self, new_ME: Floats) -> Floats:
        """Return the embeddings of all items, given those of the new ones; [N, E]."""
        if self.is_new_N.all():
            return new_ME
        self.rows_NE[self.is_new_N] = new_ME
        return self.rows_NE


class ItemCache:
    """Pooled embeddings of items, in a fixed number of bytes."""

    def __init__(self, schema: Schema, *, size_bytes: int) -> None:
        """Keep items of one bundle, whose schema this is, in `size_bytes` at most.

        Raises: ConfigError if there is no room for one set, or items have no embeddings.
        """
        features = schema.sparse_of("item")
        if not features:
            raise ConfigError("no feature of items is looked up, so a cache would keep nothing; set its size to 0")
        self.num_dims = num_dims = sum(schema.table(feature.table).dim for feature in features)
        set_bytes = WAYS * (4 * num_dims + 16 + 8 * RECENT)  # the embeddings, a hash and a time, and recent hashes
        num_sets = size_bytes // set_bytes
        if num_sets == 0:
            raise ConfigError(
                f"a cache of {size_bytes} B has no room for {WAYS} items of {num_dims} numbers, which take "
                f"{set_bytes} B; make it larger, or 0"
            )
        self._num_sets = num_sets
        # Written to, so that the kernel backs it now: a request that keeps items would wait for a huge page for many.
        self._rows = np.full((num_sets * WAYS, num_dims), 0, dtype=np.float32)
        self._hashes_SW = np.zeros((num_sets, WAYS), dtype=np.uint64)
        self._met_SW = np.zeros((num_sets, WAYS), dtype=np.int64)
        self._recent = np.zeros(num_sets * WAYS * RECENT, dtype=np.uint64)
        self._now = 0
        salts = np.random.default_rng().integers(2**64, size=len(features) + 3, dtype=np.uint64)
        self._salt, self._factors, self._factors_F1 = salts[0], salts[1:3] | _ONE, salts[3:, np.newaxis] | _ONE

    @property
    def num_items(self) -> int:
        """Return how many items it may keep."""
        return len(self._rows)

    @property
    def size_bytes(self) -> int:
        """Return what all of it takes once it is full."""
        return sum(array.nbytes for array in (self._rows, self._hashes_SW, self._met_SW, self._recent))

    def recall(self, batches: NetBatches) -> Recalled:
        """Return what is known of these items, each of which counts as met now."""
        self._now += 1
        hashes_N = self._hashes_of(batches.item)
        sets_N = rows_of_keys(hashes_N, self._num_sets)
        is_met_NW = self._hashes_SW[sets_N] == hashes_N[:, np.newaxis]
        is_new_N = ~is_met_NW.any(axis=1)
        slots_N = sets_N * WAYS + is_met_NW.argmax(axis=1)
        known = slots_N[~is_new_N]
        self._met_SW.reshape(-1)[known] = self._now
        return Recalled(
            asked=batches.with_items(is_new_N) if len(known) else batches,
            is_new_N=is_new_N,
            hashes_M=hashes_N[is_new_N],
            rows_NE=self._rows.take(slots_N if len(known) else known, axis=0),
        )

    def keep(self, recalled: Recalled, new_ME: Floats) -> None:
        """Keep the embeddings of items that were new to `recall`, and came up before."""
        hashes_M = recalled.hashes_M
        places_M = rows_of_keys(hashes_M, len(self._recent))
        is_kept_M = (self._hashes_SW[rows_of_keys(hashes_M, self._num_sets)] == hashes_M[:, np.newaxis]).any(axis=1)
        back = np.flatnonzero((self._recent[places_M] == hashes_M) & ~is_kept_M)  # another request may have kept it
        self._recent[places_M] = hashes_M
        if not len(back):
            return
        sets = rows_of_keys(hashes_M[back], self._num_sets)
        # Two items of one set would take the same slot: the first has it, the other may come again.
        slots, first = np.unique(sets * WAYS + self._met_SW[sets].argmin(axis=1), return_index=True)
        self._rows[slots] = new_ME[back[first]]
        self._hashes_SW.reshape(-1)[slots] = hashes_M[back[first]]
        self._met_SW.reshape(-1)[slots] = self._now

    def _hashes_of(self, items: Batch) -> Keys:
        """Return a hash of each item's keys; [N]. It is never 0, which is that of a free slot."""
        bags = list(items.bags.values())
        mixed = np.concatenate([one.keys for one in bags]) ^ self._salt
        for factor in self._factors:  # twice, or a change of the highest bit alone would go through as it is
            mixed ^= mixed >> _SHIFT
            mixed *= factor
        mixed ^= mixed >> _SHIFT
        sums = np.zeros(len(mixed) + 1, dtype=np.uint64)
        mixed.cumsum(out=sums[1:])
        offsets_FB = np.stack([one.offsets for one in bags])
        offsets_FB[1:] += offsets_FB[:-1, -1:].cumsum(axis=0)
        hashes_FN = np.diff(sums[offsets_FB], axis=1)
        hashes_FN ^= hashes_FN >> _SHIFT
        hashes_FN *= self._factors_F1
        hashes_N: Keys = hashes_FN.sum(axis=0)
        return hashes_N | _ONE
