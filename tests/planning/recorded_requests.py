"""Requests from a seed, as a trace holds them, and a plan to replay them on."""

import numpy as np

from exfm.artifact.plan import Assignment, ShardPlan, assign
from exfm.artifact.trace import Requests
from exfm.schema import NETS, Net, Schema


def random_requests(schema: Schema, num_requests: int, *, seed: int, first_ns: int = 0) -> Requests:
    """Return requests a microsecond apart, some without users, items or keys; low rows are wanted most."""
    rng = np.random.default_rng(seed)
    num_rows: dict[Net, np.ndarray] = {net: rng.integers(0, 5, num_requests) for net in NETS}
    lengths = {
        feature.name: rng.integers(0, 2 if feature.kind == "single" else 6, num_rows[feature.net].sum(), dtype=np.int32)
        for feature in schema.sparse
    }
    keys = {
        name: (rng.random(int(of_feature.sum())) ** 4 * 2**64).astype(np.uint64) for name, of_feature in lengths.items()
    }
    arrival_ns = first_ns + 1_000 * np.arange(num_requests)
    return Requests(arrival_ns=arrival_ns, num_rows=num_rows, keys=keys, lengths=lengths)


def plan_with_hot_rows(schema: Schema) -> ShardPlan:
    """Return a plan that splits table `item` in three, copies its hot rows to a fourth shard and has the rest there."""
    rows = schema.table("item").rows
    thirds = [0, rows // 3, 2 * rows // 3, rows]
    assignments = [Assignment("item", shard, thirds[shard], thirds[shard + 1] - thirds[shard]) for shard in range(3)]
    assignments.append(Assignment("item", 3, 0, 20, hot=True))
    assignments += [Assignment(table.name, 3, 0, table.rows) for table in schema.tables if table.name != "item"]
    return ShardPlan(strategy="by-hand", num_shards=4, replicas=(1,) * 4, slices=assign(schema, assignments, 4))
