"""Which shard each part of a table goes to, and how near the best possible that is."""
