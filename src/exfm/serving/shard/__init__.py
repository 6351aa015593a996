"""An embedding shard: pooled embeddings of the rows in its slices."""
