"""A shard's tables in the ranker's own process: a model that is served unsharded."""

import asyncio

from exfm.models.scoring import NetPooled, Scorer
from exfm.models.shard_tables import ShardTables
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import timed
from exfm.serving.ranker.shards.link import ShardCall, ShardLink
from exfm.serving.shard_protocol.shard_id import ShardId


class LocalLink(ShardLink):
    """One shard's tables in this process."""

    def __init__(self, tables: ShardTables, scorer: Scorer, *, shard: int, num_turns: int = 0) -> None:
        """Look up after `num_turns` turns of the event loop, in which requests to other shards are sent."""
        super().__init__(ShardId.of(scorer, shard), "this server")
        self._tables = tables
        self._num_turns = num_turns

    async def lookup(self, call: ShardCall) -> NetPooled:
        """Return the pooled embeddings of a call's bags."""
        for _ in range(self._num_turns):
            await asyncio.sleep(0)
        with timed(call.profiler, Layer.EMBEDDING):
            return {net: self._tables.pooled(net, of_net) for net, of_net in call.bags.items()}
