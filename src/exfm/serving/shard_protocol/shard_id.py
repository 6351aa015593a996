"""Names a shard, so that a ranker and a shard's servers can check that they mean the same one."""

from collections.abc import Mapping
from dataclasses import dataclass

from exfm.models.scoring import Scorer
from exfm.schema import NETS, Net


@dataclass(frozen=True)
class ShardId:
    """One shard of one bundle."""

    bundle_id: str
    shard: int
    dims: Mapping[Net, int]
    """E of each net: the dims of its lookups on this shard, together."""

    @classmethod
    def of(cls, scorer: Scorer, shard: int) -> "ShardId":
        """Return a shard of a scorer's bundle."""
        dims = {net: sum(lookup.dim for lookup in scorer.lookups(shard, net)) for net in NETS}
        return cls(scorer.manifest.bundle_id, shard, dims=dims)
