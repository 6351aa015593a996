"""The simulator: requests replayed through the queues of rankers and shard servers."""
