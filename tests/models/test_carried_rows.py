"""Rows that travel as they are kept: added up where they arrive, to the sums that their shard would have given."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_model import manifest_of, random_batches, random_hot_rows, random_plan, row_sets

from exfm.artifact.answers import AnswerForm
from exfm.artifact.plan import Assignment, Encoding, ShardPlan, assign
from exfm.errors import KeysOutsideSliceError
from exfm.models.carried_rows import Carried, CarriedRows
from exfm.models.lookup import LookupBags, lookups_of
from exfm.models.network import DenseNetwork
from exfm.models.scoring import NetSums, Scorer
from exfm.models.shard_tables import ShardTables, flatten_tables
from exfm.schema import Schema

Tables = dict[str, torch.Tensor]
ENCODINGS: list[Encoding] = ["fp32", "fp16", "int8"]


def shard_tables(
    tables: Tables, plan: ShardPlan, schema: Schema, *, shard: int, seed: int, sums: AnswerForm
) -> ShardTables:
    hot_rows = random_hot_rows(plan, schema, seed=seed)
    flat = flatten_tables(tables, plan, shard=shard, hot_rows=hot_rows)
    return ShardTables(flat, plan, schema, shard=shard, hot_rows=row_sets(hot_rows, schema), sums=sums)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_shards=st.integers(1, 3),
    encoding=st.sampled_from(ENCODINGS),
    num_candidates=st.lists(st.integers(0, 20), max_size=3),
)
def test_rows_add_up_to_the_sums_of_their_shard(
    schema: Schema,
    tables: Tables,
    network: DenseNetwork,
    seed: int,
    num_shards: int,
    encoding: Encoding,
    num_candidates: list[int],
) -> None:
    plan = random_plan(schema, num_shards=num_shards, seed=seed, encoding=encoding)
    hot_rows = row_sets(random_hot_rows(plan, schema, seed=seed), schema)
    scorer = Scorer(manifest_of(plan, schema), network, hot_rows=hot_rows)
    for shard, bags in enumerate(scorer.bags_for(random_batches(schema, num_candidates, seed=seed))):
        held = shard_tables(tables, plan, schema, shard=shard, seed=seed, sums="rows")
        for net, of_net in bags.items():
            answer, sums = held.answer(held.find(net, of_net)), held.sums(net, of_net)
            assert answer.nbytes == held.answer_bytes(net, of_net) <= sums.nbytes
            if answer.dtype == torch.uint8:
                lookups = lookups_of(plan, schema, shard=shard, net=net)
                rows = CarriedRows([lookups], order=range(len(lookups)))
                assert torch.equal(rows.sums([Carried(answer, of_net)]), sums)
            else:
                assert torch.equal(answer, sums)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    encoding=st.sampled_from(ENCODINGS),
    forms=st.lists(st.sampled_from(["fp32", "rows"]), min_size=2, max_size=2),
    num_candidates=st.lists(st.integers(0, 20), max_size=3),
)
def test_scores_by_rows_are_those_by_sums_to_the_last_bit(
    schema: Schema,
    tables: Tables,
    network: DenseNetwork,
    seed: int,
    encoding: Encoding,
    forms: list[AnswerForm],
    num_candidates: list[int],
) -> None:
    plan = random_plan(schema, num_shards=2, seed=seed, encoding=encoding)
    scorer = Scorer(
        manifest_of(plan, schema), network, hot_rows=row_sets(random_hot_rows(plan, schema, seed=seed), schema)
    )
    batches = random_batches(schema, num_candidates, seed=seed)
    by_form, by_sums = (
        [shard_tables(tables, plan, schema, shard=shard, seed=seed, sums=form) for shard, form in enumerate(of_shards)]
        for of_shards in (forms, ["fp32", "fp32"])
    )
    scores = []
    for shards in (by_form, by_sums):
        sums: list[NetSums] = []
        for held, bags in zip(shards, scorer.bags_for(batches), strict=True):
            answers = {net: (held.answer(held.find(net, of_net)), of_net) for net, of_net in bags.items()}
            sums.append(
                {
                    net: Carried(answer, of_net) if answer.dtype == torch.uint8 else answer
                    for net, (answer, of_net) in answers.items()
                }
            )
        scores.append(scorer.scores(batches, sums, scorer.bottom(batches)))
    np.testing.assert_array_equal(*scores, strict=True)


@pytest.mark.parametrize(("num_keys", "dtype"), [(1, torch.uint8), (50, torch.float32)])
def test_rows_travel_where_they_take_less_than_sums(
    schema: Schema, tables: Tables, num_keys: int, dtype: torch.dtype
) -> None:
    slices = assign(schema, [Assignment(table.name, 0, 0, table.rows) for table in schema.tables], 1, encoding="int8")
    plan = ShardPlan(strategy="by-hand", num_shards=1, replicas=(1,), slices=slices)
    num_lookups = len(lookups_of(plan, schema, shard=0, net="item"))
    bags = LookupBags(
        keys=np.zeros(num_lookups * num_keys, dtype=np.uint64),
        lengths_LB=np.full((num_lookups, 1), num_keys, dtype=np.int32),
    )
    for form, expected in (("rows", dtype), ("fp32", torch.float32)):
        held = shard_tables(tables, plan, schema, shard=0, seed=1, sums=form)
        assert held.answer(held.find("item", bags)).dtype == expected


def test_a_key_that_a_shard_does_not_hold_has_no_row(schema: Schema, tables: Tables) -> None:
    plan = random_plan(schema, num_shards=3, seed=4, encoding="int8")
    split = next(slice_ for slice_ in plan.slices if slice_.kind == "rows" and slice_.first_row > 0)
    net = next(feature.net for feature in schema.sparse if feature.table == split.table)
    lookups = lookups_of(plan, schema, shard=split.shard, net=net)
    lengths_LB = np.array([[int(lookup.slice is split)] for lookup in lookups], dtype=np.int32)
    bags = LookupBags(keys=np.zeros(lengths_LB.sum(), dtype=np.uint64), lengths_LB=lengths_LB)
    with pytest.raises(KeysOutsideSliceError, match=f"table '{split.table}'"):
        shard_tables(tables, plan, schema, shard=split.shard, seed=4, sums="rows").find(net, bags)
