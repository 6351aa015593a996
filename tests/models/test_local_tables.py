from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_model import manifest_of, random_batches, random_hot_rows, random_plan, row_sets

from exfm.artifact.plan import Assignment, ShardPlan, assign, row_bytes
from exfm.errors import ConfigError
from exfm.features.batch import NetBatches
from exfm.models.local_tables import choose_local_tables
from exfm.models.network import DenseNetwork
from exfm.models.scoring import Scorer
from exfm.models.shard_tables import ShardTables, flatten_tables
from exfm.schema import NETS, Schema

Tables = dict[str, torch.Tensor]


def scores_of(
    schema: Schema,
    tables: Tables,
    network: DenseNetwork,
    plan: ShardPlan,
    batches: NetBatches,
    *,
    local: Collection[str] = (),
) -> np.ndarray[Any, Any]:
    """Return the scores by shards, which hold what the plan says, and a ranker that holds some tables itself."""
    hot_rows = random_hot_rows(plan, schema, seed=1)
    sets = row_sets(hot_rows, schema)
    scorer = Scorer(manifest_of(plan, schema), network, hot_rows=sets, local_tables=local)
    pooled = []
    for shard, bags in enumerate(scorer.bags_for(batches)):
        held = plan if shard < plan.num_shards else scorer.plan
        flat = flatten_tables(tables, held, shard=shard, hot_rows=hot_rows)
        of_shard = ShardTables(flat, held, schema, shard=shard, hot_rows=sets)
        pooled.append({net: of_shard.pooled(net, of_net) for net, of_net in bags.items()})
        asked = {net: sum(lookup.dim for lookup in scorer.lookups(shard, net)) for net in bags}
        assert {net: of_net.shape[1] for net, of_net in pooled[-1].items()} == asked
    return scorer.scores(batches, pooled, scorer.bottom(batches))


@pytest.mark.slow
@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 4), st.data())
def test_tables_of_any_plan_score_the_same_from_the_ranker(
    schema: Schema, tables: Tables, network: DenseNetwork, seed: int, num_shards: int, data: st.DataObject
) -> None:
    plan = random_plan(schema, num_shards=num_shards, seed=seed)
    local = data.draw(st.sets(st.sampled_from([table.name for table in schema.tables])))
    batches = random_batches(schema, [3, 0, 4], seed=seed)
    found = scores_of(schema, tables, network, plan, batches, local=sorted(local))
    np.testing.assert_allclose(found, scores_of(schema, tables, network, plan, batches), atol=1e-6)


@pytest.mark.slow
@settings(max_examples=25)
@given(st.integers(0, 2**31), st.data())
def test_tables_in_one_slice_score_the_same_to_the_last_bit(
    schema: Schema, tables: Tables, network: DenseNetwork, seed: int, data: st.DataObject
) -> None:
    names = [table.name for table in schema.tables]
    shards = data.draw(st.lists(st.integers(0, 2), min_size=len(names), max_size=len(names)))
    assignments = [Assignment(t.name, shard, 0, t.rows) for t, shard in zip(schema.tables, shards, strict=True)]
    plan = ShardPlan(strategy="a", num_shards=3, replicas=(1, 1, 1), slices=assign(schema, assignments, 3))
    local = data.draw(st.sets(st.sampled_from(names)))
    batches = random_batches(schema, [3, 4], seed=seed)
    found = scores_of(schema, tables, network, plan, batches, local=sorted(local))
    np.testing.assert_array_equal(found, scores_of(schema, tables, network, plan, batches))


def test_a_shard_all_of_whose_tables_the_ranker_holds_is_not_asked(
    schema: Schema, network: DenseNetwork, plan: ShardPlan
) -> None:
    on_shard_1 = {slice_.table for slice_ in plan.slices_on(1)}
    scorer = Scorer(manifest_of(plan, schema), network, local_tables=sorted(on_shard_1))
    bags = scorer.bags_for(random_batches(schema, [3], seed=0))
    assert bags[0].keys() == set(NETS)
    assert bags[1] == {}


def item_bytes(schema: Schema, *names: str) -> int:
    return sum(schema.table(name).rows * row_bytes(schema.table(name).dim, "fp32") for name in names)


def test_tables_of_items_are_chosen_by_rows_for_each_feature_while_there_is_room(
    schema: Schema, plan: ShardPlan
) -> None:
    assert {feature.table for feature in schema.sparse_of("item")} == {"item", "genre"}
    assert schema.table("genre").rows < schema.table("item").rows
    room = item_bytes(schema, "genre")
    assert choose_local_tables(plan, schema, size_bytes=room) == ("genre",)
    room += item_bytes(schema, "item")
    assert choose_local_tables(plan, schema, size_bytes=room - 1) == ("genre",)
    assert choose_local_tables(plan, schema, size_bytes=room) == ("genre", "item")
    assert choose_local_tables(plan, schema, size_bytes=2**40) == ("genre", "item")


def test_room_for_no_table_is_refused(schema: Schema, plan: ShardPlan) -> None:
    least = item_bytes(schema, "genre")
    with pytest.raises(ConfigError, match=f"room for {least - 1} B of tables of items, but the smallest takes {least}"):
        choose_local_tables(plan, schema, size_bytes=least - 1)
    of_users = schema.select(features=["user_id", "release_year"], tasks=["love"])
    with pytest.raises(ConfigError, match="but there is none"):
        choose_local_tables(plan, of_users, size_bytes=2**40)
