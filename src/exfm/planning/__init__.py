"""Planning: table statistics in, a shard plan out, with its cost and its latency. No log, tensor or server.

Rooms have the roles of TorchRec's planner, from the lowest: `cost_model` (its shard estimators), `enumerator`,
`partitioner`, `topology`, `proposer` (with the strategies of Lui et al., arXiv:2011.02084), `perf_model`, `planner`.
"""
