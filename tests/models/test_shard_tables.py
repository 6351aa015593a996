"""Requests that a shard looks up together."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_model import manifest_of, random_batches, random_hot_rows, random_plan, row_sets

from exfm.artifact.answers import AnswerForm
from exfm.artifact.plan import ENCODINGS, Encoding
from exfm.models.lookup import LookupBags, lookups_of
from exfm.models.network import DenseNetwork
from exfm.models.scoring import Scorer
from exfm.models.shard_tables import ShardTables, flatten_tables
from exfm.schema import NETS, Schema

Asked = tuple[list[int], int]
"""Candidates of each user, and a number that tells by its bits which lookups are asked for."""


def some_of(bags: LookupBags, bits: int) -> LookupBags:
    """Return the bags of the lookups whose bits are set; of 0 and of all set, all of them."""
    num_lookups = len(bags.lengths_LB)
    places = [place for place in range(num_lookups) if bits >> place & 1]
    if len(places) in {0, num_lookups}:
        return bags
    keys_L = np.split(bags.keys, np.cumsum(bags.num_keys)[:-1])
    return replace(
        bags,
        keys=np.concatenate([keys_L[place] for place in places]),
        lengths_LB=bags.lengths_LB[places],
        only=tuple(places),
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    encoding=st.sampled_from(ENCODINGS),
    form=st.sampled_from(["fp32", "fp16", "rows"]),
    asked=st.lists(
        st.tuples(st.lists(st.integers(0, 9), max_size=3), st.sampled_from([0, 1, 6])), min_size=1, max_size=6
    ),
)
def test_each_gets_to_the_last_bit_what_it_gets_alone(
    schema: Schema,
    tables: dict[str, torch.Tensor],
    network: DenseNetwork,
    seed: int,
    encoding: Encoding,
    form: AnswerForm,
    asked: list[Asked],
) -> None:
    plan = random_plan(schema, num_shards=2, seed=seed, encoding=encoding)
    rows = random_hot_rows(plan, schema, seed=seed)
    hot_rows = row_sets(rows, schema)
    scorer = Scorer(manifest_of(plan, schema), network, hot_rows=hot_rows)
    every = [
        (scorer.bags_for(random_batches(schema, num_candidates, seed=seed + place)), bits)
        for place, (num_candidates, bits) in enumerate(asked)
    ]
    for shard in range(2):
        flat = flatten_tables(tables, plan, shard=shard, hot_rows=rows)
        held = ShardTables(flat, plan, schema, shard=shard, hot_rows=hot_rows, sums=form)
        for net in NETS:
            bags = [some_of(of_shards[shard][net], bits) for of_shards, bits in every if net in of_shards[shard]]
            together = held.answers([held.find(net, one) for one in bags])
            for one, answer in zip(bags, together, strict=True):
                assert torch.equal(answer, held.answer(held.find(net, one)))
                assert answer.nbytes == held.answer_bytes(net, one)


@pytest.mark.parametrize("only", [None, ()])
def test_requests_without_rows_or_lookups_get_their_empty_answers(
    schema: Schema, tables: dict[str, torch.Tensor], only: tuple[int, ...] | None
) -> None:
    plan = random_plan(schema, num_shards=1, seed=3)
    rows = random_hot_rows(plan, schema, seed=3)
    flat = flatten_tables(tables, plan, shard=0, hot_rows=rows)
    held = ShardTables(flat, plan, schema, shard=0, hot_rows=row_sets(rows, schema))
    num_lookups = len(lookups_of(plan, schema, shard=0, net="item")) if only is None else 0
    none = LookupBags(np.empty(0, np.uint64), np.empty((num_lookups, 0), np.int32), only)
    answers = held.answers([held.find("item", one) for one in (none, LookupBags.of_none(3), none)])
    assert [answer.shape[0] for answer in answers] == [0, 3, 0]
