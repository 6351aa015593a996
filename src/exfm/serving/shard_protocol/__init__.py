"""The fast path between ranker and shards: frames over a plain TCP or TLS stream."""
