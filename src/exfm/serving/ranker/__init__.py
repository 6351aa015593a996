"""A ranker: the front door of a bundle, which asks its shards and scores."""
