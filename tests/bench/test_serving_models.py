"""What `exfm bench serving` serves is what its settings say."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from exfm.bench.serving.config import Case, Memory, Peers, ServingBenchConfig, Sweep, Way
from exfm.bench.serving.layers import num_traced
from exfm.bench.serving.models import NETWORKS, ModelKind, of_rows, scaled
from exfm.bench.serving.requests import CaseRequests
from exfm.bench.serving.servers import serving, sharding
from exfm.bench.serving.starts import NUM_SCORED, Parts
from exfm.bench.workload import SMALL_NETWORK, GeneratedFeature, GeneratedModel
from exfm.config import read_yaml
from exfm.planning.planner import make_plan
from exfm.planning.pricing.costs import DEFAULT_COSTS
from exfm.serving.config import RankerConfig, ShardConfig

EXAMPLES = Path(__file__).parents[2] / "examples/bench"


@pytest.mark.parametrize(("kind", "num_tables", "num_nets"), [("drm1", 257, 2), ("drm2", 133, 2), ("drm3", 39, 1)])
def test_scaled_models_keep_their_tables_and_nets_and_the_share_of_their_bytes(
    kind: ModelKind, num_tables: int, num_nets: int
) -> None:
    large = scaled(kind, bytes_factor=1 / 100, dim_factor=0.5, network="small", seed=0).statistics(candidates=512)
    small = scaled(kind, bytes_factor=1 / 400, dim_factor=0.5, network="small", seed=0).statistics(candidates=512)
    assert len(small.tables) == num_tables
    assert len({table.net for table in small.tables}) == num_nets
    assert large.size_bytes("fp32") / small.size_bytes("fp32") == pytest.approx(4, rel=0.01)
    if kind == "drm3":
        largest = max(table.size_bytes("fp32") for table in small.tables)
        assert largest / small.size_bytes("fp32") == pytest.approx(0.9, abs=0.01)


def test_requests_are_the_same_however_many_rows_tables_have() -> None:
    few, many = (of_rows(rows, num_tables=2, dim=8).requests(3, candidates=5, seed=1) for rows in (1_000, 1_000_000))
    for one, other in zip(few, many, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name].values, other[name].values) for name in one)


def test_candidates_of_distinct_items_come_again_with_all_of_their_ids() -> None:
    features = (
        GeneratedFeature("user", "user", 100, 4, 1),
        GeneratedFeature("brand", "item", 100, 4, 1),
        GeneratedFeature("shop", "item", 100, 4, 1),
    )
    requests = GeneratedModel(features, SMALL_NETWORK).requests(50, candidates=4, seed=0, distinct_items=30)
    users: set[int] = set()
    items: Counter[tuple[int, int]] = Counter()
    for request in requests:
        users.update(request["user"].values.tolist())
        of_request = set(zip(request["brand"].values.tolist(), request["shop"].values.tolist(), strict=True))
        assert len(of_request) == 4, "a request's candidates differ"
        items.update(of_request)
    assert len(users) == 50, "users are others each time"
    assert len(items) <= 30
    (_, most), *_, (_, least) = items.most_common()
    assert most > 25, "the first is in most requests"
    assert least < 10


def test_a_models_weights_are_the_same_each_time_and_no_tables_are_anothers() -> None:
    first, again = (of_rows(50, num_tables=2, dim=8).weights() for _ in range(2))
    assert list(first) == ["t0", "t1"]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["t0"], first["t1"])


@pytest.mark.parametrize("kind", ["drm1", "drm2", "drm3"])
@pytest.mark.parametrize("num_shards", [1, 2, 4, 8])
@pytest.mark.parametrize("strategy", ["one-shard", "capacity-balanced", "load-balanced", "nsbp"])
def test_every_strategy_places_every_model(kind: ModelKind, num_shards: int, strategy: str) -> None:
    way = Case.parse({"strategies": [strategy], "num_shards": [num_shards]}, source="a test").ways()[0]
    model = scaled(kind, bytes_factor=1 / 400, dim_factor=0.5, network="small", seed=0)
    statistics = model.statistics(candidates=512)
    plan = make_plan(model.schema(), statistics, sharding(way, statistics), DEFAULT_COSTS)
    assert plan.num_shards == way.num_shards
    if kind == "drm3" and num_shards > 1 and strategy in {"capacity-balanced", "load-balanced"}:
        assert len(plan.slices) > len(model.features), "the table with nearly all bytes is split"


def test_one_shard_is_one_way_whatever_the_strategy() -> None:
    case = Case(strategies=("load-balanced", "nsbp"), num_shards=(1, 2), transports=("stream",))
    assert [str(way) for way in case.ways()] == [
        "1 shard, stream",
        "2 shards, load-balanced, stream",
        "2 shards, nsbp, stream",
    ]


def test_tables_lie_alike_however_keys_and_sums_travel() -> None:
    ways = Case(sums=("fp32", "fp16")).ways()
    assert [str(way) for way in ways] == [
        "2 shards, load-balanced, stream",
        "2 shards, load-balanced, stream, fp16 sums",
        "2 shards, load-balanced, grpc",
        "2 shards, load-balanced, grpc, fp16 sums",
    ]
    assert len({way.placement() for way in ways}) == 1


def test_tables_that_the_ranker_holds_make_another_way_of_the_same_placement() -> None:
    ways = Case(transports=("stream",), local_tables_mib=(0, 16)).ways()
    assert [str(way) for way in ways] == [
        "2 shards, load-balanced, stream",
        "2 shards, load-balanced, stream, 16 MiB in the ranker",
    ]
    assert len({way.placement() for way in ways}) == 1


def test_items_that_the_ranker_keeps_make_another_way_of_the_same_placement() -> None:
    ways = Case(transports=("stream",), cache_mib=(0, 128), distinct_items=1_000).ways()
    assert [str(way) for way in ways] == [
        "2 shards, load-balanced, stream",
        "2 shards, load-balanced, stream, 128 MiB of items met",
    ]
    assert len({way.placement() for way in ways}) == 1


def test_items_that_cannot_be_drawn_or_met_again_are_refused() -> None:
    with pytest.raises(ValidationError, match="distinct_items 511 are less than the 512 candidates"):
        Case(candidates=512, distinct_items=511)
    with pytest.raises(ValidationError, match="cache_mib is set, but under each of 2 loads the same items come"):
        Case(cache_mib=(0, 16), loads=(0.0, 0.3))


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("loads", [(0.0,), (0.5,)])
def test_no_request_comes_twice_in_a_start_to_a_ranker_that_keeps_items(warmup: int, loads: tuple[float, ...]) -> None:
    case = Case(model="drm3", candidates=4, requests=45, loads=loads, cache_mib=(1,), distinct_items=100)
    config = ServingBenchConfig(blocks=7, starts=3, turns=4, warmup=warmup, distinct_requests=5, bytes_factor=1e-5)
    requests = CaseRequests.of(case, config)
    assert (len(requests.traced), len(requests.scored)) == (num_traced(3), NUM_SCORED)
    every = [*requests.timed, *requests.traced, *requests.scored]
    assert len({one["age"].values.item() for one in every}) == len(every), "all differ"
    parts = Parts.of(45, config, is_open=loads[0] > 0)
    assert parts == Parts(num_parts=2 if loads[0] else 4, num_timed=23 if loads[0] else 12, num_warmup=warmup)
    for blocks in config.blocks_of_starts():
        sent = [
            (parts.first_of(block * parts.num_parts + part) + place) % len(requests.timed)
            for block in blocks
            for part in range(parts.num_parts)
            for place in range(warmup + parts.num_timed)
        ]
        assert len(set(sent)) == len(sent) == len(blocks) * parts.num_asked


def test_all_requests_of_a_case_are_the_same_where_no_ranker_keeps_items() -> None:
    requests = CaseRequests.of(Case(model="drm3", candidates=4), ServingBenchConfig(distinct_requests=12))
    assert requests.timed is requests.traced
    assert len(requests.timed) == 12
    assert requests.scored == requests.timed[:NUM_SCORED]


def test_a_policy_of_shards_makes_another_way_of_the_same_placement() -> None:
    ways = Case(transports=("grpc",), scheduling_policies=("other", "batch")).ways()
    assert [str(way) for way in ways] == ["2 shards, load-balanced, grpc", "2 shards, load-balanced, grpc, batch"]
    assert len({way.placement() for way in ways}) == 1


def test_servers_get_the_settings_of_their_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[tuple[RankerConfig, ShardConfig]] = []

    @contextmanager
    def serve_local(_: Path, *, ranker: RankerConfig, shard: ShardConfig, is_sharded: bool) -> Iterator[None]:
        assert is_sharded
        started.append((ranker, shard))
        yield

    monkeypatch.setattr("exfm.bench.serving.servers.serve_local", serve_local)
    way = Way(transport="grpc", sums="fp16", local_tables_mib=16, cache_mib=8, scheduling_policy="batch")
    with serving(tmp_path, threads=2, precision="bf16", way=way):
        [(ranker, shard)] = started
    assert (ranker.transport, ranker.local_tables_mib, ranker.cache_mib, ranker.torch_threads) == ("grpc", 16, 8, 2)
    assert (shard.sums, shard.scheduling_policy, shard.torch_threads) == ("fp16", "batch", 1)


def test_a_models_dense_layers_are_those_that_the_settings_name() -> None:
    by_network = {
        network: scaled("drm3", bytes_factor=1e-5, dim_factor=0.125, network=network, seed=0) for network in NETWORKS
    }
    assert {network: model.network.top_units for network, model in by_network.items()} == {
        "mlperf": (1024, 1024, 512, 256),
        "small": (128, 64),
    }
    assert by_network["mlperf"].features == by_network["small"].features


def test_rows_of_a_sweep_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValidationError, match="do not rise"):
        ServingBenchConfig.model_validate({"sweep": {"rows": [1000, 100]}})


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("serving-*.yaml")), ids=lambda path: path.name)
def test_the_settings_in_examples_are_valid(path: Path) -> None:
    config = ServingBenchConfig.parse(read_yaml(path), source=str(path))
    assert all(case.ways() for case in config.cases)


def test_the_full_settings_hold_every_combination() -> None:
    config = ServingBenchConfig.parse(read_yaml(EXAMPLES / "serving-full.yaml"), source="full")
    assert {(case.model, case.candidates) for case in config.cases} == {
        (model, candidates) for model in ("drm1", "drm2", "drm3") for candidates in (64, 512, 2048)
    }
    for case in config.cases:
        assert case.loads == (0.0, 0.3, 0.6)
        assert len(case.ways()) == 2 * (1 + 3 * 3), "one shard, and three strategies on 2, 4 and 8, by both transports"


def test_beside_peers_one_shard_is_one() -> None:
    assert [str(Peers(strategy=strategy).way()) for strategy in ("nsbp", "one-shard")] == [
        "2 shards, nsbp, stream, fp16 sums", "1 shard, stream, fp16 sums",
    ]  # fmt: skip


def test_a_run_that_would_measure_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing would be measured"):
        ServingBenchConfig(cases=(), sweep=Sweep(rows=()), memory=Memory(requests=0), peers=Peers(model="none"))
