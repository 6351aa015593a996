"""Rows that a shard sent as it keeps them, added up where they arrive: to the same numbers as at the shard.

Legend: B rows of one net, L lookups, E their dims side by side.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from exfm.models.lookup import Lookup, LookupBags
from exfm.models.pooled_lookup import EncodedTable, PooledLookup


class CarriedRows:
    """What a shard looks up for one net, as it comes by rows."""

    def __init__(self, lookups: Sequence[Lookup]) -> None:
        """Add up rows of these lookups, of which there is one at least."""
        self._lookups = lookups
        self._row_bytes_L = np.array([lookup.row_bytes for lookup in lookups])

    @cached_property
    def _pooled(self) -> PooledLookup:
        nowhere = torch.empty(0, dtype=torch.uint8)
        return PooledLookup(nowhere, [EncodedTable(0, 0, one.dim, one.slice.encoding) for one in self._lookups])

    def size_bytes(self, bags: LookupBags) -> int:
        """Return what the rows of these bags take."""
        return int(bags.num_keys @ self._row_bytes_L)

    def sums(self, rows: Tensor, bags: LookupBags) -> Tensor:
        """Return the sum of each bag's rows; [B, E].

        `rows`, uint8 of as many bytes as `size_bytes` says, are those of the bags' keys, in their order.

        Raises: ConfigError if FBGEMM is not installed.
        """
        counts_L = bags.num_keys
        bytes_L = counts_L * self._row_bytes_L
        first_key_L = np.cumsum(counts_L) - counts_L
        positions = np.arange(len(bags.keys)) - np.repeat(first_key_L, counts_L)
        offsets = np.zeros(bags.lengths_LB.size + 1, dtype=np.int64)
        np.cumsum(bags.lengths_LB, out=offsets[1:])
        return self._pooled.sums_of(rows, np.cumsum(bytes_L) - bytes_L, positions, offsets)
