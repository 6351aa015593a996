"""Scores while a shard is away."""

import numpy as np
import pytest
import torch
from plain_model import manifest_of, plain_scores, random_batches, random_hot_rows, random_plan, row_sets

from exfm.artifact.fallback_rows import NO_FALLBACK_ROWS, FallbackRows
from exfm.artifact.hot_rows import NO_HOT_ROWS, HotRows
from exfm.artifact.plan import ShardPlan
from exfm.artifact.rows import Rows
from exfm.errors import BundleError
from exfm.models.lookup import LookupBags
from exfm.models.network import DenseNetwork
from exfm.models.scoring import Scorer
from exfm.models.shard_tables import ShardTables, flatten_tables
from exfm.schema import Net, Schema

Tables = dict[str, torch.Tensor]


def scorer_of(
    schema: Schema,
    network: DenseNetwork,
    plan: ShardPlan,
    *,
    hot_rows: HotRows = NO_HOT_ROWS,
    fallback_rows: FallbackRows = NO_FALLBACK_ROWS,
) -> Scorer:
    return Scorer(manifest_of(plan, schema), network, hot_rows=hot_rows, fallback_rows=fallback_rows)


def means(tables: Tables) -> FallbackRows:
    return {name: table.mean(dim=0).numpy() for name, table in tables.items()}


def test_a_missing_bag_is_as_many_fallback_rows_as_it_has_keys(
    schema: Schema, network: DenseNetwork, plan: ShardPlan, tables: Tables
) -> None:
    rows = {table.name: np.full(table.dim, 0.25, dtype=np.float32) for table in schema.tables}
    rows["genre"] = np.arange(schema.table("genre").dim, dtype=np.float32)
    scorer = scorer_of(schema, network, plan, fallback_rows=rows)
    lookups = scorer.lookups(1, "item")
    assert [lookup.feature.name for lookup in lookups] == ["item_id", "genres"]
    keys = np.array([2**63, 1, 2, 3], dtype=np.uint64)
    bags: dict[Net, LookupBags] = {
        "item": LookupBags(keys=keys, lengths_LB=np.array([[1, 0, 0], [0, 1, 2]], dtype=np.int32))
    }
    pooled = scorer.stand_in(bags, shard=1)["item"]
    assert pooled.dtype == torch.float32
    item, genre = torch.split(pooled, [lookup.dim for lookup in lookups], dim=1)
    assert item[:, 0].tolist() == [0.25, 0.0, 0.0]
    assert genre[:, 3].tolist() == [0.0, 3.0, 6.0]
    assert scorer.tables_of(bags, shard=1) == {"item", "genre"}


def test_a_table_of_which_no_key_was_asked_is_not_missing(
    schema: Schema, network: DenseNetwork, plan: ShardPlan
) -> None:
    scorer = scorer_of(schema, network, plan)
    empty = LookupBags(keys=np.empty(0, dtype=np.uint64), lengths_LB=np.zeros((2, 1), dtype=np.int32))
    assert scorer.tables_of({"item": empty}, shard=1) == set()


def without_shard(
    schema: Schema, tables: Tables, plan: ShardPlan, hot_rows: dict[str, Rows], *, shard: int
) -> dict[str, torch.Tensor]:
    """Return tables in which the rows that only the shard answers are mean rows."""
    changed = {}
    for name, table in tables.items():
        lost = torch.zeros(len(table), dtype=torch.bool)
        for slice_ in plan.by_table()[name]:
            rows = (
                torch.from_numpy(hot_rows[name])
                if slice_.kind == "hot"
                else torch.arange(slice_.first_row, slice_.first_row + slice_.num_rows)
            )
            lost[rows] = slice_.shard == shard
        changed[name] = torch.where(lost.unsqueeze(1), table.mean(dim=0), table)
    return changed


@pytest.mark.parametrize("seed", range(5))
def test_only_keys_of_the_missing_slices_fall_back(
    seed: int, schema: Schema, tables: Tables, network: DenseNetwork
) -> None:
    plan = random_plan(schema, num_shards=3, seed=seed)
    hot_rows = random_hot_rows(plan, schema, seed=seed)
    sets = row_sets(hot_rows, schema)
    scorer = scorer_of(schema, network, plan, hot_rows=sets, fallback_rows=means(tables))
    batches = random_batches(schema, [3, 4], seed=seed)
    pooled = []
    for shard, bags in enumerate(scorer.bags_for(batches)):
        if shard == 1:
            pooled.append(scorer.stand_in(bags, shard=1))
            continue
        flat = flatten_tables(tables, plan, shard=shard, hot_rows=hot_rows)
        held = ShardTables(flat, plan, schema, shard=shard, hot_rows=sets)
        pooled.append({net: held.pooled(net, of_net) for net, of_net in bags.items()})
    scores = scorer.scores(batches, pooled, scorer.bottom(batches))
    changed = without_shard(schema, tables, plan, hot_rows, shard=1)
    np.testing.assert_allclose(scores, plain_scores(schema, changed, network, batches).numpy(), atol=1e-6)


def test_a_bundle_without_fallback_rows_has_nothing_to_stand_in(
    schema: Schema, network: DenseNetwork, plan: ShardPlan
) -> None:
    with pytest.raises(BundleError, match="bundle 'a' has no fallback rows"):
        scorer_of(schema, network, plan).stand_in({}, shard=1)
