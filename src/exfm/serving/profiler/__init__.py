"""Measures a request's time and CPU time, layer by layer, at a ranker and its shards."""
