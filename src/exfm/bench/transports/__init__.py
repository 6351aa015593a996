"""Ways to carry a shard's sums to a ranker, compared."""
