"""Requests from a seed, as a ranker logs them, and a plan to replay them on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exfm.artifact.plan import Assignment, ShardPlan, assign
from exfm.features.batch import RawColumns, RawIds
from exfm.features.impressions import Answered, ImpressionsFile, Served, columns_of, table_of
from exfm.features.request import RawRequest
from exfm.schema import Net, Schema, SparseFeature


def random_requests(
    schema: Schema, num_requests: int, *, seed: int, first_ns: int = 0, most_candidates: int = 4
) -> list[Answered]:
    """Return requests a microsecond apart, each of some users with some candidates each; low ids are wanted most."""
    rng = np.random.default_rng(seed)
    return [
        _random_request(schema, rng, most_candidates, id_=f"{seed}-{number}", arrival_ns=first_ns + 1_000 * number)
        for number in range(num_requests)
    ]


def write_log(
    start: Path,
    schema: Schema,
    *files: Sequence[Sequence[Answered]],
    model: str = "students",
    sampling_rate: float = 1.0,
) -> Path:
    """Write files of requests, each in blocks as a ranker's thread writes them; return their start's folder."""
    (start / "impressions").mkdir(parents=True)
    served = Served(model=model, bundle_id="b" * 64, sampling_rate=sampling_rate)
    for number, blocks in enumerate(files):
        name = f"impressions-{number:04d}.parquet"
        file = ImpressionsFile(start / "impressions" / name, partial=start / f".{name}.partial")
        for block in blocks:
            file.add(table_of(list(columns_of(block, schema, domain="shop", served=served)), block))
        file.finish()
    return start


def plan_with_hot_rows(schema: Schema) -> ShardPlan:
    """Return a plan that splits table `item` in three, copies its hot rows to a fourth shard and has the rest there."""
    rows = schema.table("item").rows
    thirds = [0, rows // 3, 2 * rows // 3, rows]
    assignments = [Assignment("item", shard, thirds[shard], thirds[shard + 1] - thirds[shard]) for shard in range(3)]
    assignments.append(Assignment("item", 3, 0, 20, hot=True))
    assignments += [Assignment(table.name, 3, 0, table.rows) for table in schema.tables if table.name != "item"]
    return ShardPlan(strategy="by-hand", num_shards=4, replicas=(1,) * 4, slices=assign(schema, assignments, 4))


def _random_request(
    schema: Schema, rng: np.random.Generator, most_candidates: int, *, id_: str, arrival_ns: int
) -> Answered:
    num_candidates = rng.integers(1, most_candidates + 1, rng.integers(1, 4))
    num_rows: dict[Net, int] = {"user": len(num_candidates), "item": int(num_candidates.sum())}
    columns = {
        net: RawColumns(
            num_rows=num,
            dense={feature.name: rng.random(num).astype(np.float32) for feature in schema.dense_of(net)},
            sparse={feature.name: _random_ids(feature, num, rng) for feature in schema.sparse_of(net)},
        )
        for net, num in num_rows.items()
    }
    scores = {task: rng.random(num_rows["item"], dtype=np.float32) for task in schema.tasks()}
    return Answered(id_, arrival_ns, RawRequest(columns, num_candidates), scores, is_degraded=False)


def _random_ids(feature: SparseFeature, num_rows: int, rng: np.random.Generator) -> RawIds:
    """Return some rows' ids, now and then more than a model uses of them, or none."""
    most = 1 if feature.kind == "single" else min(feature.max_length + 2, 30)
    lengths = np.where(rng.random(num_rows) < 0.1, most, rng.integers(0, min(most, 5) + 1, num_rows))
    numbers = (rng.random(int(lengths.sum())) ** 4 * 500).astype(np.int64)
    values: np.ndarray[Any, Any] = numbers
    if feature.id_type == "string":
        values = np.array([f"id {number}" for number in numbers], dtype=object)
    return RawIds(values=values, lengths=lengths.astype(np.int64))
