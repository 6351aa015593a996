"""Prometheus metrics of a shard's lookups, as the ranker sees them."""

from prometheus_client import Counter, Histogram

from exfm.models.scoring import NetPooled
from exfm.serving.ranker.shards.link import NetBags
from exfm.serving.requests.latency import BUCKETS_S

SECONDS = Histogram(
    "exfm_ranker_lookup_seconds", "Time until a shard's pooled embeddings were there", ["shard"], buckets=BUCKETS_S
)
KEYS = Counter("exfm_ranker_lookup_keys", "Keys that a shard looked up", ["shard"])
BYTES = Counter("exfm_ranker_lookup_bytes", "Pooled embeddings that a shard returned, in bytes", ["shard"])


class LookupMetrics:
    """The metrics of one shard's lookups."""

    def __init__(self, shard: int) -> None:
        """Show 0 for this shard before its first lookup."""
        label = str(shard)
        self._seconds = SECONDS.labels(shard=label)
        self._keys, self._bytes = KEYS.labels(shard=label), BYTES.labels(shard=label)

    def answered(self, bags: NetBags, pooled: NetPooled, *, seconds: float) -> None:
        """Count a lookup that took `seconds`."""
        self._seconds.observe(seconds)
        self._keys.inc(sum(len(of_net.keys) for of_net in bags.values()))
        self._bytes.inc(sum(of_net.nbytes for of_net in pooled.values()))
