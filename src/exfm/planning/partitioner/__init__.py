"""The partitioner: which shard each part goes to, and how far that is from the best possible. Arrays only."""
