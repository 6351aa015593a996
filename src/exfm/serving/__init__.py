"""A bundle as servers: embedding shards and a ranker that speak the Open Inference Protocol."""
