"""Parts are packed within capacity, near a bound that holds."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfm.planning.partitioner.bounds import bottleneck_bound, distance
from exfm.planning.partitioner.exact import place_exactly
from exfm.planning.partitioner.packing import pack
from exfm.planning.partitioner.tabu_search import tabu_search

weights = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


def best_bottleneck(weights_P: np.ndarray, sizes_P: np.ndarray, num_shards: int, capacity: float) -> float:
    """Return the least bottleneck of all placements that fit, or infinity."""
    every = np.array(list(product(range(num_shards), repeat=len(weights_P))))
    on_shard = every[:, :, None] == np.arange(num_shards)
    fits = ((on_shard * sizes_P[None, :, None]).sum(axis=1) <= capacity).all(axis=1)
    heaviest = (on_shard * weights_P[None, :, None]).sum(axis=1).max(axis=1)
    return float(heaviest[fits].min(initial=np.inf))


@given(weights=weights, num_shards=st.integers(1, 4))
def test_no_placement_goes_below_the_bound(weights: list[float], num_shards: int) -> None:
    weights_P = np.array(weights)
    best = best_bottleneck(weights_P, 0 * weights_P, num_shards, 1)
    assert bottleneck_bound(weights_P, num_shards) <= best * (1 + 1e-12)


def test_the_bound_is_the_mean_or_the_heaviest_part_or_parts_that_share_a_shard() -> None:
    assert bottleneck_bound(np.array([1.0, 1, 1, 1]), 2) == 2
    assert bottleneck_bound(np.array([9.0, 1, 1, 1]), 2) == 9
    assert bottleneck_bound(np.array([5.0, 5, 5]), 2) == 10


@given(data=st.data(), weights=weights, num_shards=st.integers(1, 4), slack=st.floats(1, 2))
def test_few_parts_are_placed_as_well_as_can_be(
    data: st.DataObject, weights: list[float], num_shards: int, slack: float
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 50), min_size=len(weights), max_size=len(weights)))
    weights_P, sizes_P = np.array(weights), 64 * np.array(sizes)
    capacity_bytes = int(slack * max(sizes_P.max(), sizes_P.sum() / num_shards))
    packing = pack(weights_P, sizes_P, num_shards=num_shards, capacity_bytes=capacity_bytes)
    best = best_bottleneck(weights_P, sizes_P, num_shards, capacity_bytes // 64 * 64)
    if packing is None:
        assert best == np.inf
    else:
        assert np.bincount(packing.shard_of, sizes_P).max() <= capacity_bytes
        assert packing.bottleneck == pytest.approx(best, rel=2e-3)
        assert packing.bound <= best * (1 + 1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fill", [0.9, 0.92])
def test_a_thousand_heavy_tailed_parts_are_within_a_percent_of_the_bound(seed: int, fill: float) -> None:
    random = np.random.default_rng(seed)
    weights_P, sizes = np.exp(2 * random.standard_normal((2, 1000)))
    weights_P, sizes = (np.minimum(row, 0.3 * row.sum() / 128) for row in (weights_P, sizes))
    capacity_bytes = 2**36
    sizes_P = (sizes / sizes.sum() * 128 * fill * capacity_bytes // 64 * 64).astype(np.int64)
    packing = pack(weights_P, sizes_P, num_shards=128, capacity_bytes=capacity_bytes)
    assert packing is not None
    assert np.bincount(packing.shard_of, sizes_P).max() <= capacity_bytes
    assert distance(packing.bottleneck, packing.bound) <= 0.01
    assert packing.bottleneck == np.bincount(packing.shard_of, weights_P).max()


def test_no_shard_is_empty_where_there_are_as_many_parts() -> None:
    packing = pack(np.array([0.0, 0, 0, 0, 1]), np.full(5, 64), num_shards=5, capacity_bytes=640)
    assert packing is not None
    assert set(packing.shard_of.tolist()) == set(range(5))


def test_parts_that_fit_only_exactly_are_placed() -> None:
    sizes_P = 64 * np.array([5, 5, 4, 4, 3, 3])
    packing = pack(np.ones(6), sizes_P, num_shards=2, capacity_bytes=64 * 12)
    assert packing is not None
    assert np.bincount(packing.shard_of, sizes_P).tolist() == [64 * 12, 64 * 12]


def test_what_does_not_fit_is_not_placed() -> None:
    assert pack(np.ones(3), np.full(3, 640), num_shards=2, capacity_bytes=1216) is None
    assert place_exactly(np.ones(3), np.full(3, 0.6), 2, at_least=0.0) == (None, np.inf)


def test_what_cannot_fit_is_refused_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    for search in ("place_exactly", "tabu_search"):
        monkeypatch.setattr(
            f"exfm.planning.partitioner.packing.{search}", lambda *given, **more: pytest.fail("searched")
        )
    assert pack(np.ones(3), np.full(3, 640), num_shards=2, capacity_bytes=1216) is None  # two of three share a shard
    assert pack(np.ones(300), np.full(300, 640), num_shards=2, capacity_bytes=64_000) is None  # the mean is too much


@given(seed=st.integers(0, 1000), num_shards=st.integers(1, 8))
def test_tabu_search_says_whether_all_loads_are_within_their_limits(seed: int, num_shards: int) -> None:
    random = np.random.default_rng(seed)
    loads_2P = random.random((2, 30)) * num_shards / 20
    start = np.zeros(30, dtype=np.int64)
    shard_of, is_found = tabu_search(start, loads_2P, num_shards)
    highest = max(np.bincount(shard_of, row, num_shards).max() for row in loads_2P)
    assert is_found == (highest <= 1 + 1e-9)
    assert not start.any(), "what was given is not changed"


def test_a_migration_cost_keeps_parts_at_home() -> None:
    loads_2P = np.stack([np.array([0.6, 0.5, 0.2]), np.zeros(3)])
    shard_of, is_found = tabu_search(np.array([0, 0, 1]), loads_2P, 2, migration_costs_P=np.array([0.05, 5.0, 5.0]))
    assert is_found
    assert shard_of.tolist() == [1, 0, 1], "the part of the lowest migration cost moved"
