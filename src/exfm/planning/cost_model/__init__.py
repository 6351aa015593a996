"""The cost model: the work of a plan's shards in a mean request, and the CPU time of that work."""
