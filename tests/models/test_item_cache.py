import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_model import manifest_of, random_batches, random_hot_rows, random_plan, row_sets

from exfm.errors import ConfigError
from exfm.features.batch import Bags, Batch, NetBatches
from exfm.models.dense_part import Unscored
from exfm.models.item_cache import WAYS, ItemCache
from exfm.models.network import DenseNetwork
from exfm.models.pooling import side_by_side
from exfm.models.scoring import Scorer
from exfm.models.shard_tables import ShardTables, flatten_tables
from exfm.schema import Schema

Scores = npt.NDArray[np.float32]
Score = Callable[[NetBatches, ItemCache | None], Scores]


def make_score(schema: Schema, tables: dict[str, torch.Tensor], network: DenseNetwork, *, seed: int) -> Score:
    """Return what scores by shards of some plan, with a cache or without, as a ranker does."""
    plan = random_plan(schema, num_shards=2, seed=seed)
    hot_rows = random_hot_rows(plan, schema, seed=seed)
    sets = row_sets(hot_rows, schema)
    scorer = Scorer(manifest_of(plan, schema), network, hot_rows=sets)
    shards = [
        ShardTables(
            flatten_tables(tables, plan, shard=shard, hot_rows=hot_rows), plan, schema, shard=shard, hot_rows=sets
        )
        for shard in range(2)
    ]

    def score(batches: NetBatches, cache: ItemCache | None) -> Scores:
        recalled = None if cache is None else cache.recall(batches)
        asked = batches if recalled is None else recalled.asked
        sums = [
            {net: shard.sums(net, of_net) for net, of_net in bags.items()}
            for shard, bags in zip(shards, scorer.bags_for(asked), strict=True)
        ]
        pooled = scorer.pooled(asked, sums)
        if cache is not None and recalled is not None:
            new_ME = side_by_side(pooled["item"]).numpy()
            cache.keep(recalled, new_ME)
            pooled["item"] = [torch.from_numpy(recalled.completed(new_ME))]
        unscored = Unscored(pooled, scorer.bottom(batches), batches.num_candidates)
        return scorer.scores_together([unscored])[0]

    return score


def set_bytes(schema: Schema) -> int:
    """Return what a set of the cache takes: the least that it may have."""
    with pytest.raises(ConfigError) as raised:
        ItemCache(schema, size_bytes=1)
    return int(str(raised.value).split("which take ")[1].split(" B")[0])


@settings(max_examples=30)
@given(
    st.integers(0, 2**31),
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2**31)), min_size=2, max_size=8),
)
def test_any_requests_score_the_same_with_a_cache_of_any_size(
    schema: Schema,
    tables: dict[str, torch.Tensor],
    network: DenseNetwork,
    seed: int,
    num_sets: int,
    requests: list[tuple[int, int]],
) -> None:
    score = make_score(schema, tables, network, seed=seed)
    cache = ItemCache(schema, size_bytes=num_sets * set_bytes(schema))
    for pool, choice in requests:  # some items of one of three pools, so that many come back
        batches = random_batches(schema, [20, 0, 15], seed=pool)
        batches = batches.with_items(np.random.default_rng(choice).random(35) < 0.5)
        found = score(batches, cache)
        np.testing.assert_array_equal(found, score(batches, None))
        assert found.dtype == np.float32


@pytest.fixture
def one_set(schema: Schema) -> ItemCache:
    """Return the smallest cache that there is."""
    return ItemCache(schema, size_bytes=set_bytes(schema))


def items(schema: Schema, seeds: Sequence[int]) -> NetBatches:
    """Return an item for each seed, no two alike, all of one user."""
    ids = np.array(seeds, dtype=np.uint64)
    bags = {feature.name: Bags(ids, np.arange(len(ids) + 1)) for feature in schema.sparse_of("item")}
    user = random_batches(schema, [0], seed=0).user
    dense_ND = np.zeros((len(ids), len(schema.dense_of("item"))), dtype=np.float32)
    return NetBatches(user, Batch(len(ids), dense_ND, bags), np.array([len(ids)]))


def ask(cache: ItemCache, batches: NetBatches) -> list[bool]:
    """Return which items are new to the cache, which then keeps what it will."""
    recalled = cache.recall(batches)
    cache.keep(recalled, np.zeros((len(recalled.hashes_M), cache.num_dims), dtype=np.float32))
    return recalled.is_new_N.tolist()


def test_an_item_is_kept_when_it_comes_up_again(schema: Schema, one_set: ItemCache) -> None:
    assert ask(one_set, items(schema, [1])) == [True]
    assert ask(one_set, items(schema, [2, 1])) == [True, True]
    assert ask(one_set, items(schema, [2, 1, 2])) == [True, False, True]
    assert ask(one_set, items(schema, [2, 1, 2])) == [False, False, False]


def test_known_items_are_not_asked_for(schema: Schema, one_set: ItemCache) -> None:
    for _ in range(2):
        ask(one_set, items(schema, [1]))
    recalled = one_set.recall(items(schema, [2, 1, 3]))
    assert recalled.asked.num_candidates.tolist() == [2]
    assert [bags.keys.tolist() for bags in recalled.asked.item.bags.values()] == [[2, 3]] * len(
        recalled.asked.item.bags
    )


def test_items_that_come_once_do_not_drive_out_those_that_come_back(schema: Schema, one_set: ItemCache) -> None:
    wanted = items(schema, range(WAYS))
    while any(ask(one_set, wanted)):  # of one batch's items for one slot, one is taken
        pass
    for start in range(100, 2_100, 100):
        assert all(ask(one_set, items(schema, range(start, start + 100))))
    assert not any(ask(one_set, wanted))


def test_an_item_that_comes_back_takes_the_place_of_the_one_not_met_for_longest(
    schema: Schema, one_set: ItemCache
) -> None:
    for first in range(WAYS):
        for _ in range(2):
            ask(one_set, items(schema, [first]))
    assert not any(ask(one_set, items(schema, range(1, WAYS))))
    assert [ask(one_set, items(schema, [99])) for _ in range(3)] == [[True], [True], [False]]
    assert ask(one_set, items(schema, range(WAYS))) == [True] + [False] * (WAYS - 1)


def test_a_cache_takes_no_more_than_its_bytes(schema: Schema) -> None:
    for size_bytes in (set_bytes(schema), 100_000, 2**20):
        cache = ItemCache(schema, size_bytes=size_bytes)
        for seed in range(5):
            for _ in range(3):
                ask(cache, items(schema, range(1_000 * seed, 1_000 * seed + 1_000)))
        assert size_bytes - set_bytes(schema) < cache.size_bytes <= size_bytes


def test_items_of_other_ids_are_others_and_those_in_another_order_are_not(schema: Schema) -> None:
    cache = ItemCache(schema, size_bytes=2**20)
    first, *_, last = (feature.name for feature in schema.sparse_of("item"))
    assert first != last

    def with_bags(**bags: list[int]) -> NetBatches:
        one = items(schema, [0])
        keys = {name: np.array(bags.get(name, []), dtype=np.uint64) for name in one.item.bags}
        return replace(
            one,
            item=replace(one.item, bags={n: Bags(k, np.array([0, len(k)])) for n, k in keys.items()}),
        )

    different = [{first: [1, 2]}, {last: [1, 2]}, {first: [1], last: [2]}, {first: [1]}, {}]
    different += [{first: [2, 2]}, {first: [2, 2, 2]}, {first: [3, 3]}]
    for bags in different * 2:
        assert ask(cache, with_bags(**bags)) == [True]
    for bags in different:
        assert ask(cache, with_bags(**bags)) == [False]
        assert ask(cache, with_bags(**{name: ids[::-1] for name, ids in bags.items()})) == [False]


def test_a_request_without_items_is_answered(schema: Schema, one_set: ItemCache) -> None:
    assert ask(one_set, items(schema, [])) == []


def test_a_cache_without_room_for_a_set_is_refused(schema: Schema) -> None:
    with pytest.raises(ConfigError, match=r"a cache of 2 B has no room for 8 items of \d+ numbers"):
        ItemCache(schema, size_bytes=2)


def test_a_cache_for_items_that_have_no_embeddings_is_refused(schema: Schema) -> None:
    with pytest.raises(ConfigError, match="no feature of items is looked up"):
        ItemCache(schema.select(features=["user_id", "release_year"], tasks=["love"]), size_bytes=2**20)


def test_items_that_differ_in_the_highest_bits_of_two_ids_are_two(schema: Schema) -> None:
    batches = random_batches(schema, [40], seed=3)
    top = np.uint64(2**63)
    names = list(batches.item.bags)[:2]
    others = replace(
        batches,
        item=replace(
            batches.item,
            bags={
                name: replace(bags, keys=bags.keys ^ top) if name in names else bags
                for name, bags in batches.item.bags.items()
            },
        ),
    )
    cache = ItemCache(schema, size_bytes=2**20)
    for _ in range(40):  # of those that want the same slot, one is kept each time
        recalled = cache.recall(batches)
        cache.keep(recalled, np.zeros((len(recalled.hashes_M), cache.num_dims), dtype=np.float32))
    assert not cache.recall(batches).is_new_N.any()
    has_both = (batches.item.bags[names[0]].lengths > 0) & (batches.item.bags[names[1]].lengths > 0)
    assert has_both.any()
    assert cache.recall(others).is_new_N[has_both].all()


BACKED = """
import sys
from pathlib import Path
from exfm.models.item_cache import ItemCache
from exfm.schema import Schema

def resident_pages():
    return int(Path("/proc/self/statm").read_text().split()[1])

schema = Schema.model_validate_json(sys.stdin.read())
before = resident_pages()
cache = ItemCache(schema, size_bytes=64 * 2**20)
print((resident_pages() - before) * 4096 / (4 * cache.num_dims * cache.num_items))
"""


def test_all_memory_for_items_is_there_before_one_is_kept(schema: Schema) -> None:
    program = [sys.executable, "-c", BACKED]
    found = subprocess.run(program, input=schema.model_dump_json(), capture_output=True, text=True, check=True)
    assert float(found.stdout) > 0.95
