"""How a vertical model is made ready for serving."""

from typing import Annotated

from pydantic import Field

from exfm.config import Config
from exfm.planning.config import ShardingConfig


class BundleConfig(Config):
    """How a vertical model is made ready for serving."""

    sharding: ShardingConfig = ShardingConfig()
    table_statistics: str = ""
    """Folder or URL of what `exfm shard statistics` counted. Empty: the examples that the model learned from are
    counted, as requests of `candidates_mean` items."""
    candidates_mean: Annotated[float, Field(ge=1, le=1_000_000)] = 100.0
    """Items of a mean request, which examples do not tell; 1 to 1,000,000."""
    golden_candidates: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Items in the golden query, 1 to 10,000; `exfm serve` is ready only when the ranker scores
    them as the bundle did when it was made."""
