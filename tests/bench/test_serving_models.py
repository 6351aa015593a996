"""What `exfm bench serving` serves is what its settings say."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from exfm.artifact.plan import row_bytes
from exfm.config import read_yaml
from exfm.errors import ConfigError
from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm.planning.planner import make_plan
from exfm.planning.statistics import Statistics
from exfm.serving.config import RankerConfig, ShardConfig
from exfm_bench.serving.config import Memory, Peers, Scenario, ServingBenchConfig, ShardedBy, Sweep, Variant
from exfm_bench.serving.models import NETWORKS, ModelKind, of_rows, scaled
from exfm_bench.serving.servers import serving, sharding
from exfm_bench.serving.starts import Parts
from exfm_bench.workload import GeneratedModel

EXAMPLES = Path(__file__).parents[2] / "examples/bench"


@cache
def small(kind: ModelKind) -> tuple[GeneratedModel, Statistics]:
    model = scaled(kind, bytes_factor=1 / 400, dim_factor=0.5, network="small", seed=0)
    return model, model.statistics(candidates=512)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "num_tables", "num_nets"), [("drm1", 257, 2), ("drm2", 133, 2), ("drm3", 39, 1)])
def test_scaled_models_keep_their_tables_and_nets_and_the_share_of_their_bytes(
    kind: ModelKind, num_tables: int, num_nets: int
) -> None:
    large = scaled(kind, bytes_factor=1 / 100, dim_factor=0.5, network="small", seed=0).schema()
    _, statistics = small(kind)
    assert len(statistics.tables) == num_tables
    assert len({table.net for table in statistics.tables}) == num_nets
    large_bytes = sum(table.rows * row_bytes(table.dim, "fp32") for table in large.tables)
    assert large_bytes / statistics.size_bytes("fp32") == pytest.approx(4, rel=0.01)
    if kind == "drm3":
        largest = max(table.size_bytes("fp32") for table in statistics.tables)
        assert largest / statistics.size_bytes("fp32") == pytest.approx(0.9, abs=0.01)


def test_requests_are_the_same_however_many_rows_tables_have() -> None:
    few, many = (of_rows(rows, num_tables=2, dim=8).requests(3, candidates=5, seed=1) for rows in (1_000, 1_000_000))
    for one, other in zip(few, many, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name].values, other[name].values) for name in one)


def test_a_models_weights_are_the_same_each_time_and_no_tables_are_anothers() -> None:
    first, again = (of_rows(50, num_tables=2, dim=8).weights() for _ in range(2))
    assert list(first) == ["t0", "t1"]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["t0"], first["t1"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["drm1", "drm2", "drm3"])
@pytest.mark.parametrize(
    ("strategy", "num_shards"), [("one-shard", 1), *product(("capacity-balanced", "load-balanced", "nsbp"), (2, 8))]
)
def test_every_strategy_places_every_model(kind: ModelKind, strategy: ShardedBy, num_shards: int) -> None:
    model, statistics = small(kind)
    variant = Variant(strategy=strategy, num_shards=num_shards)
    plan = make_plan(model.schema(), statistics, sharding(variant, statistics), DEFAULT_COSTS)
    assert plan.num_shards == num_shards
    if kind == "drm3" and strategy in {"capacity-balanced", "load-balanced"}:
        assert len(plan.slices) > len(model.features), "the table with nearly all bytes is split"


def test_one_shard_is_one_way_whatever_the_strategy() -> None:
    scenario = Scenario(strategies=("load-balanced", "nsbp"), num_shards=(1, 2))
    assert [str(variant) for variant in scenario.variants()] == [
        "1 shard",
        "2 shards, load-balanced",
        "2 shards, nsbp",
    ]


def test_tables_lie_alike_however_pooled_embeddings_travel() -> None:
    variants = Scenario(pooled_precision=("fp32", "fp16")).variants()
    assert [str(variant) for variant in variants] == [
        "2 shards, load-balanced",
        "2 shards, load-balanced, fp16 pooled",
    ]
    assert len({variant.placement() for variant in variants}) == 1


def test_tables_that_the_ranker_holds_make_another_way_of_the_same_placement() -> None:
    variants = Scenario(local_tables_mib=(0, 16)).variants()
    assert [str(variant) for variant in variants] == [
        "2 shards, load-balanced",
        "2 shards, load-balanced, 16 MiB in the ranker",
    ]
    assert len({variant.placement() for variant in variants}) == 1


def test_servers_get_the_settings_of_their_variant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[tuple[RankerConfig, ShardConfig]] = []

    @contextmanager
    def serve_local(_: Path, *, ranker: RankerConfig, shard: ShardConfig, is_sharded: bool) -> Iterator[None]:
        assert is_sharded
        started.append((ranker, shard))
        yield

    monkeypatch.setattr("exfm_bench.serving.servers.serve_local", serve_local)
    variant = Variant(pooled_precision="fp16", local_tables_mib=16)
    with serving(tmp_path, threads=2, precision="bf16", variant=variant):
        [(ranker, shard)] = started
    assert (ranker.shards.local_tables_mib, ranker.torch_threads, ranker.dense_precision) == (16, 2, "bf16")
    assert (shard.pooled_precision, shard.torch_threads) == ("fp16", 1)


def test_the_old_name_of_pooled_precision_is_refused() -> None:
    for sent in ({"scenarios": [{"sums": ["fp16"]}]}, {"peers": {"sums": "fp16"}}):
        with pytest.raises(ConfigError, match="sums is no longer a setting: it is called pooled_precision; rename it"):
            ServingBenchConfig.parse(sent, source="a test")


def test_rows_that_travel_are_no_longer_measured() -> None:
    with pytest.raises(
        ConfigError, match=r"scenarios\.0\.pooled_precision\.0: expected 'fp32' or 'fp16' \(found 'rows'\)"
    ):
        ServingBenchConfig.parse({"scenarios": [{"pooled_precision": ["rows"]}]}, source="a test")


@pytest.mark.parametrize(("old", "new"), [("cases", "scenarios"), ("ways_at_once", "variants_at_once")])
def test_a_renamed_setting_is_refused_with_its_new_name(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=rf"a test: .*{old} is no longer a setting: it is called {new}; rename it"):
        ServingBenchConfig.parse({old: 1}, source="a test")


@pytest.mark.parametrize(("is_open", "parts"), [(False, Parts(4, 12, 2)), (True, Parts(2, 23, 2))])
def test_parts_of_a_block_are_fewer_in_an_open_loop_and_their_requests_go_on(*, is_open: bool, parts: Parts) -> None:
    assert Parts.of(45, ServingBenchConfig(turns=4, warmup=2), is_open=is_open) == parts
    assert [parts.first_of(part) for part in range(3)] == [0, 2 + parts.num_timed, 2 * (2 + parts.num_timed)]


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
    assert all(scenario.variants() for scenario in config.scenarios)


def test_the_full_settings_hold_every_combination() -> None:
    config = ServingBenchConfig.parse(read_yaml(EXAMPLES / "serving-full.yaml"), source="full")
    assert {(scenario.model, scenario.candidates) for scenario in config.scenarios} == {
        (model, candidates) for model in ("drm1", "drm2", "drm3") for candidates in (64, 512, 2048)
    }
    for scenario in config.scenarios:
        assert scenario.loads == (0.0, 0.3, 0.6)
        assert len(scenario.variants()) == 1 + 3 * 3, "one shard, and three strategies on 2, 4 and 8"


def test_beside_peers_one_shard_is_one() -> None:
    assert [str(Peers(strategy=strategy).variant()) for strategy in ("nsbp", "one-shard")] == [
        "2 shards, nsbp, fp16 pooled", "1 shard, fp16 pooled",
    ]  # fmt: skip


def test_a_run_that_would_measure_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing would be measured"):
        ServingBenchConfig(scenarios=(), sweep=Sweep(rows=()), memory=Memory(requests=0), peers=Peers(model="none"))
