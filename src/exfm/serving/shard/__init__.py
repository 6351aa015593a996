"""An embedding shard: sums of the rows of its slices."""
