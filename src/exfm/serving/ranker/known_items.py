"""The ranker's cache of items, if its settings want one, and what Prometheus hears of it."""

import logging

import torch
from prometheus_client import Counter
from torch import Tensor

from exfm.features.batch import NetBatches
from exfm.models.item_cache import ItemCache, Recalled
from exfm.schema import Schema

logger = logging.getLogger(__name__)

HITS = Counter("exfm_ranker_cache_hits", "Candidates whose embeddings the ranker had kept")
MISSES = Counter("exfm_ranker_cache_misses", "Candidates that shards were asked for, since the cache had them not")


class KnownItems:
    """What a ranker knows of items, all from its one bundle."""

    def __init__(self, schema: Schema, *, cache_mib: int) -> None:
        """Keep up to so many MiB of embeddings; 0 keeps none.

        Raises: ConfigError if that is too little, or items have no embeddings.
        """
        self._cache = ItemCache(schema, size_bytes=cache_mib * 2**20) if cache_mib else None
        if self._cache is not None:
            logger.info("keeps up to %d items in %.1f MiB", self._cache.num_items, self._cache.size_bytes / 2**20)

    def recall(self, batches: NetBatches) -> Recalled | None:
        """Return what is known of these items; None without a cache."""
        if self._cache is None:
            return None
        recalled = self._cache.recall(batches)
        num_new = len(recalled.hashes_M)
        HITS.inc(len(recalled.is_new_N) - num_new)
        MISSES.inc(num_new)
        return recalled

    def complete(self, recalled: Recalled, new_ME: Tensor, *, is_kept: bool) -> Tensor:
        """Return all items' embeddings, given those of the new ones, which are kept for the next request or not."""
        if self._cache is not None and is_kept:
            self._cache.keep(recalled, new_ME.numpy())
        return torch.from_numpy(recalled.completed(new_ME.numpy()))
