"""The name of a shard, by which a ranker and a shard's servers agree on what is served."""

from collections.abc import Mapping
from dataclasses import dataclass

from exfm.models.scoring import Scorer
from exfm.schema import NETS, Net


@dataclass(frozen=True)
class ShardId:
    """Which shard of which bundle."""

    bundle_id: str
    shard: int
    dims: Mapping[Net, int]
    """E of each net, of the lookups that it is asked for."""

    @classmethod
    def of(cls, scorer: Scorer, shard: int) -> "ShardId":
        """Return a shard of the bundle that a scorer is for."""
        dims = {net: sum(lookup.dim for lookup in scorer.lookups(shard, net)) for net in NETS}
        return cls(scorer.manifest.bundle_id, shard, dims=dims)
