"""A ranker's shards: links to their servers, circuit breakers, and lookups sent to all of them at once."""
