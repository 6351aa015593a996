"""Pooled embeddings of a shard's tables, of all of its lookups or of some."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_model import manifest_of, random_batches, random_hot_rows, random_plan, row_sets

from exfm.artifact.plan import ENCODINGS, Encoding
from exfm.models.config import PooledPrecision
from exfm.models.lookup import LookupBags, lookups_of
from exfm.models.network import DenseNetwork
from exfm.models.scoring import Scorer
from exfm.models.shard_tables import ShardTables, flatten_tables
from exfm.schema import Schema


def some_of(bags: LookupBags, places: list[int]) -> LookupBags:
    """Return the bags of the lookups at these places alone."""
    keys_L = np.split(bags.keys, np.cumsum(bags.lengths_LB.sum(axis=1))[:-1])
    return replace(
        bags,
        keys=np.concatenate([keys_L[place] for place in places]),
        lengths_LB=bags.lengths_LB[places],
        only=tuple(places),
    )


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    encoding=st.sampled_from(ENCODINGS),
    precision=st.sampled_from(get_args(PooledPrecision)),
    num_candidates=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    bits=st.integers(1, 7),
)
def test_lookups_asked_for_alone_get_to_the_last_bit_what_they_get_among_all(
    schema: Schema,
    tables: dict[str, torch.Tensor],
    network: DenseNetwork,
    seed: int,
    encoding: Encoding,
    precision: PooledPrecision,
    num_candidates: list[int],
    bits: int,
) -> None:
    plan = random_plan(schema, num_shards=2, seed=seed, encoding=encoding)
    rows = random_hot_rows(plan, schema, seed=seed)
    hot_rows = row_sets(rows, schema)
    scorer = Scorer(manifest_of(plan, schema), network, hot_rows=hot_rows)
    of_shards = scorer.bags_for(random_batches(schema, num_candidates, seed=seed))
    for shard in range(2):
        flat = flatten_tables(tables, plan, shard=shard, hot_rows=rows)
        held = ShardTables(flat, plan, schema, shard=shard, hot_rows=hot_rows, precision=precision)
        for net, bags in of_shards[shard].items():
            lookups = scorer.lookups(shard, net)
            places = [place for place in range(len(lookups)) if bits >> place % 3 & 1]
            if not places:
                continue
            every, some = held.pooled(net, bags), held.pooled(net, some_of(bags, places))
            columns = every.split([lookup.dim for lookup in lookups], dim=1)
            assert torch.equal(some, torch.cat([columns[place] for place in places], dim=1))
            assert every.dtype == {"fp32": torch.float32, "fp16": torch.float16}[precision]
            assert every.nbytes == held.pooled_bytes(net, bags)


@pytest.mark.parametrize("only", [None, ()])
def test_requests_without_rows_or_lookups_get_empty_pooled_embeddings(
    schema: Schema, tables: dict[str, torch.Tensor], only: tuple[int, ...] | None
) -> None:
    plan = random_plan(schema, num_shards=1, seed=3)
    rows = random_hot_rows(plan, schema, seed=3)
    flat = flatten_tables(tables, plan, shard=0, hot_rows=rows)
    held = ShardTables(flat, plan, schema, shard=0, hot_rows=row_sets(rows, schema))
    num_lookups = len(lookups_of(plan, schema, shard=0, net="item")) if only is None else 0
    none = LookupBags(np.empty(0, np.uint64), np.empty((num_lookups, 0), np.int32), only)
    assert [len(held.pooled("item", one)) for one in (none, LookupBags.of_none(3))] == [0, 3]
