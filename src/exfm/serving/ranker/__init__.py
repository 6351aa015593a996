"""The ranker: it answers a bundle's requests by lookups of its shards, and scores candidates."""
