"""Rankers and shards as processes on this machine."""
