"""Rows that shards sent as they keep them, added up where they arrive: to the same numbers as at the shards.

Legend: B rows of one net, L lookups, E their dims side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from exfm.models.lookup import Lookup, LookupBags
from exfm.models.pooled_lookup import EncodedTable, PooledLookup
from exfm.schema import SparseFeature


@dataclass(frozen=True)
class Carried:
    """A shard's rows of one net as they came, and what they are of."""

    rows: Tensor
    """uint8 [n]: those of the bags' keys, in their order."""
    bags: LookupBags

    @property
    def nbytes(self) -> int:
        """Return what the rows take."""
        return self.rows.nbytes


class CarriedRows:
    """Some shards' lookups of one net, whose rows are added up by one call."""

    def __init__(self, lookups: Sequence[Sequence[Lookup]], *, order: Sequence[int]) -> None:
        """Add up rows of these lookups of each shard; `order` gives that of the columns, one lookup at least.

        It counts the lookups of the first shard first.
        """
        every = [one for of_shard in lookups for one in of_shard]
        self._order = np.array(order)
        self._ordered = [every[place] for place in order]
        self._row_bytes_L = np.array([one.row_bytes for one in every])

    @cached_property
    def _pooled(self) -> PooledLookup:  # only where rows do travel is FBGEMM loaded for them
        nowhere = torch.empty(0, dtype=torch.uint8)
        return PooledLookup(nowhere, [EncodedTable(0, 0, one.dim, one.slice.encoding) for one in self._ordered])

    def sums(self, carried: Sequence[Carried]) -> Tensor:
        """Return the sum of each bag's rows, given each shard's; [B, E].

        Raises: ConfigError if FBGEMM is not installed.
        """
        num_keys_L = np.concatenate([one.bags.num_keys for one in carried])
        bytes_L = num_keys_L * self._row_bytes_L
        starts_L = (np.cumsum(bytes_L) - bytes_L)[self._order]
        lengths_LB = np.concatenate([one.bags.lengths_LB for one in carried])[self._order]
        offsets = np.zeros(lengths_LB.size + 1, dtype=np.int64)
        np.cumsum(lengths_LB, out=offsets[1:])
        num_keys_L = num_keys_L[self._order]
        positions = np.arange(offsets[-1]) - np.repeat(np.cumsum(num_keys_L) - num_keys_L, num_keys_L)
        flat = torch.cat([one.rows for one in carried]) if len(carried) > 1 else carried[0].rows
        return self._pooled.sums_of(flat, starts_L, positions, offsets)


class AllRows:
    """All shards' rows of one net, added up to the columns of its features; a feature's slices add up, too."""

    def __init__(self, lookups: Sequence[Sequence[Lookup]], features: Sequence[SparseFeature]) -> None:
        """Add up rows of these lookups of each shard, to columns in the order of the features, one at least."""
        every = [one for of_shard in lookups for one in of_shard]
        of_feature = {feature.name: list[int]() for feature in features}
        for place, one in enumerate(every):
            of_feature[one.feature.name].append(place)
        firsts = [first for first, *_ in of_feature.values()]
        others = [(first, other) for first, *more in of_feature.values() for other in more]
        order = [*firsts, *(other for _, other in others)]
        ends = np.cumsum([every[place].dim for place in order])
        columns = {place: slice(end - every[place].dim, end) for place, end in zip(order, ends, strict=True)}
        self._rows = CarriedRows(lookups, order=order)
        self._added = [(columns[first], columns[other]) for first, other in others]
        self._num_columns = int(ends[len(firsts) - 1])

    def sums(self, carried: Sequence[Carried]) -> Tensor:
        """Return the sums of each feature's bags, given the rows of each shard that has lookups; [B, E].

        Raises: ConfigError if FBGEMM is not installed.
        """
        sums_BE = self._rows.sums(carried)
        for first, other in self._added:
            sums_BE[:, first] += sums_BE[:, other]
        return sums_BE[:, : self._num_columns]
