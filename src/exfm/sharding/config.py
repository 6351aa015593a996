"""How a vertical model is made ready for serving."""

from typing import Annotated

from pydantic import Field

from exfm.config import Config


class ShardingConfig(Config):
    """How many shards, and how large."""

    num_shards: Annotated[int, Field(ge=1, le=1024)] = 2
    """Embedding-shard servers, 1 to 1024."""
    shard_memory_gib: Annotated[float, Field(gt=0, le=4096)] = 4.0
    """Table bytes that one shard may hold, in GiB (2**30 bytes); more than 0, at most 4096."""


class BundleConfig(Config):
    """How a vertical model is made ready for serving."""

    sharding: ShardingConfig = ShardingConfig()
    golden_candidates: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Items in the golden query, 1 to 10,000; `exfm serve` is ready only when the ranker scores
    them as the model did."""
