"""Event logs: impressions and feedback from files that users have, or from a synthetic stream, by time window."""
