"""Where a request's time and CPU time go, layer by layer, at a ranker and its shards."""
