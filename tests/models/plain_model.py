"""What the models' tests compare with: examples from a seed, and scores by torch alone, with whole tables."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.hot_rows import RowSet
from exfm.artifact.plan import Assignment, Encoding, ShardPlan, assign
from exfm.artifact.rows import Rows
from exfm.features.batch import Bags, NetBatches, RawColumns, RawIds, encode
from exfm.models.encoding import encode_rows
from exfm.schema import NETS, Net, Schema


def random_batches(schema: Schema, num_candidates: Sequence[int], *, seed: int) -> NetBatches:
    """Return random users with so many items each; some bags are empty, some ids repeat."""
    rng = np.random.default_rng(seed)
    return encode(
        {
            "user": _random_columns(schema, "user", len(num_candidates), rng),
            "item": _random_columns(schema, "item", sum(num_candidates), rng),
        },
        schema,
        num_candidates=np.array(num_candidates, dtype=np.int64),
    )


def random_examples(schema: Schema, num_rows: int, *, seed: int) -> NetBatches:
    """Return random examples of a user and an item each."""
    return random_batches(schema, [1] * num_rows, seed=seed)


def manifest_of(plan: ShardPlan, schema: Schema) -> BundleManifest:
    """Return the manifest of a bundle with this plan, as far as scoring reads it."""
    return BundleManifest(
        bundle_id="0" * 64, name="a", tasks=(), feature_schema=schema, network={}, plan=plan, lineage={}, files={}
    )


def random_plan(schema: Schema, *, num_shards: int, seed: int, encoding: Encoding = "fp32") -> ShardPlan:
    """Return a plan that splits every table by rows at random and copies some hot rows, its parts in random order."""
    rng = np.random.default_rng(seed)
    assignments = []
    for table in schema.tables:
        cuts = sorted(set(rng.integers(1, table.rows, size=rng.integers(0, 4)).tolist()))
        for first, end in pairwise([0, *cuts, table.rows]):
            assignments.append(Assignment(table.name, int(rng.integers(num_shards)), first, end - first))
        if rng.random() < 0.5:
            num_hot = int(rng.integers(1, table.rows))
            assignments.append(Assignment(table.name, int(rng.integers(num_shards)), 0, num_hot, hot=True))
    assignments = [assignments[index] for index in rng.permutation(len(assignments))]
    slices = assign(schema, assignments, num_shards, encoding=encoding)
    return ShardPlan(strategy="random", num_shards=num_shards, replicas=(1,) * num_shards, slices=slices)


def random_hot_rows(plan: ShardPlan, schema: Schema, *, seed: int) -> dict[str, Rows]:
    """Return hot rows at random, rising, as many as the plan says of each table."""
    rng = np.random.default_rng(seed)
    return {
        name: np.sort(rng.choice(schema.table(name).rows, slice_.num_rows, replace=False))
        for name, slice_ in plan.hot_slices().items()
    }


def row_sets(hot_rows: Mapping[str, Rows], schema: Schema) -> dict[str, RowSet]:
    """Return hot rows as shards and rankers know them."""
    return {name: RowSet(rows, num_rows=schema.table(name).rows) for name, rows in hot_rows.items()}


def as_kept(table: Tensor, encoding: Encoding) -> Tensor:
    """Return the numbers that a table's rows mean once they are bytes of an encoding."""
    encoded = encode_rows(table, encoding, table="t").numpy()
    if encoding != "int8":
        return torch.from_numpy(encoded.view({"fp32": np.float32, "fp16": np.float16}[encoding]).astype(np.float32))
    scale_R1, bias_R1 = (encoded[:, at : at + 2].copy().view(np.float16).astype(np.float32) for at in (0, 2))
    return torch.from_numpy(scale_R1 * encoded[:, 4:] + bias_R1)


def plain_rows(bags: Bags, num_rows: int) -> Tensor:
    """Return each key's row, in Python's integers."""
    return torch.tensor([key * num_rows // 2**64 for key in bags.keys.tolist()], dtype=torch.int64)


def plain_pooled(schema: Schema, tables: Mapping[str, Tensor], batches: NetBatches, net: Net) -> Tensor:
    """Return one net's pooled embeddings, columns in the schema's order."""
    parts = [torch.empty((batches.of(net).num_rows, 0))]
    for feature in schema.sparse_of(net):
        table, bags = schema.table(feature.table), batches.of(net).bags[feature.name]
        offsets = torch.from_numpy(bags.offsets)[:-1]
        parts.append(
            functional.embedding_bag(plain_rows(bags, table.rows), tables[table.name], offsets, mode=table.pooling)
        )
    return torch.cat(parts, dim=1)


def plain_scores(schema: Schema, tables: Mapping[str, Tensor], network: nn.Module, batches: NetBatches) -> Tensor:
    """Return the probability of each task for each item; [N, T]."""
    user_of_item = [user for user, count in enumerate(batches.num_candidates.tolist()) for _ in range(count)]
    pooled, dense = (
        torch.cat([per_net["user"][user_of_item], per_net["item"]], dim=1)
        for per_net in (
            {net: plain_pooled(schema, tables, batches, net) for net in NETS},
            {net: torch.from_numpy(batches.of(net).dense_BD) for net in NETS},
        )
    )
    with torch.no_grad():
        scores_NT: Tensor = network(pooled, dense).sigmoid()
    return scores_NT


def _random_columns(schema: Schema, net: Net, num_rows: int, rng: np.random.Generator) -> RawColumns:
    sparse = {}
    for feature in schema.sparse_of(net):
        lengths = rng.integers(0, 2 if feature.kind == "single" else 5, size=num_rows)
        ids = rng.integers(0, 30, size=lengths.sum())
        values = ids if feature.id_type == "int64" else np.array([f"id {id_}" for id_ in ids], dtype=object)
        sparse[feature.name] = RawIds(values=values, lengths=lengths)
    dense = {
        feature.name: rng.normal(feature.normalisation.mean, feature.normalisation.std, num_rows).astype(np.float32)
        for feature in schema.dense_of(net)
    }
    return RawColumns(num_rows=num_rows, dense=dense, sparse=sparse)
