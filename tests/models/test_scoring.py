import json
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_model import manifest_of, plain_scores, random_batches, random_hot_rows, random_plan, row_sets

from exfm.artifact.bundle import DENSE_FILE, BundleManifest, seal_bundle, tables_file
from exfm.artifact.plan import Assignment, ShardPlan, assign
from exfm.errors import BundleError, RequestError
from exfm.features.batch import NetBatches
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.models.config import Interaction, NetworkConfig
from exfm.models.network import DenseNetwork
from exfm.models.offline import answer_request
from exfm.models.scoring import Scorer, UnshardedScorer, load_shard_tables
from exfm.models.shard_tables import ShardTables, flatten_tables
from exfm.schema import Schema

Make = Callable[[Path], BundleManifest]
Tables = dict[str, torch.Tensor]

MANY = 500
"""Candidates enough for their user to be met once."""


@pytest.fixture(scope="module")
def mixed_schema(schema: Schema) -> Schema:
    """Return a schema whose tables differ in dim and pooling."""
    dims = {"user": 8, "profile": 4, "item": 12, "item_disliked": 4, "genre": 16}
    pooling = {"user": "sum", "profile": "mean", "item": "mean", "item_disliked": "sum", "genre": "mean"}
    tables = [t.to_dict() | {"dim": dims[t.name], "pooling": pooling[t.name]} for t in schema.tables]
    return Schema.parse(schema.to_dict() | {"tables": tables}, source="x")


@pytest.fixture(scope="module")
def mixed_tables(mixed_schema: Schema) -> Tables:
    generator = torch.Generator().manual_seed(3)
    return {table.name: torch.randn(table.rows, table.dim, generator=generator) for table in mixed_schema.tables}


@pytest.fixture(scope="module")
def mixed_network(mixed_schema: Schema) -> DenseNetwork:
    torch.manual_seed(4)
    return DenseNetwork(mixed_schema, NetworkConfig()).eval()


@pytest.fixture
def bundle(make_bundle: Make, tmp_path: Path) -> Path:
    """Return the folder of a bundle."""
    make_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def sharded_scores(
    schema: Schema,
    tables: Tables,
    network: DenseNetwork,
    plan: ShardPlan,
    batches: NetBatches,
    *,
    halved: Collection[int] = (),
) -> np.ndarray[Any, Any]:
    """Return the scores of shards and a ranker with these parameters; some shards' pooled embeddings are halves."""
    hot_rows = random_hot_rows(plan, schema, seed=1)
    sets = row_sets(hot_rows, schema)
    scorer = Scorer(manifest_of(plan, schema), network, hot_rows=sets)
    pooled = []
    for shard, bags in enumerate(scorer.bags_for(batches)):
        flat = flatten_tables(tables, plan, shard=shard, hot_rows=hot_rows)
        held = ShardTables(
            flat, plan, schema, shard=shard, hot_rows=sets, precision="fp16" if shard in halved else "fp32"
        )
        pooled.append({net: held.pooled(net, of_net) for net, of_net in bags.items()})
    return scorer.scores(batches, pooled, scorer.bottom(batches))


def test_shards_may_give_pooled_embeddings_of_both_precisions(
    schema: Schema, tables: Tables, network: DenseNetwork
) -> None:
    plan = random_plan(schema, num_shards=3, seed=4)
    assert any(len({slice_.shard for slice_ in plan.by_table()[table.name]}) > 1 for table in schema.tables)
    batches = random_batches(schema, [4], seed=4)
    halves, exact = (
        sharded_scores(schema, tables, network, plan, batches, halved=halved) for halved in ({0, 2}, set[int]())
    )
    assert halves.dtype == np.float32
    assert 0 < np.abs(halves - exact).max() < 1e-3


@pytest.mark.parametrize("shards", [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 1, 0, 1, 0]], ids=str)
def test_columns_that_a_shard_gives_side_by_side_stay_one_piece_which_nobody_copies(
    schema: Schema, tables: Tables, network: DenseNetwork, shards: Sequence[int]
) -> None:
    summed = [table.to_dict() | {"pooling": "sum"} for table in schema.tables]
    schema = Schema.parse(schema.to_dict() | {"tables": summed}, source="x")
    placed = [Assignment(table.name, shard, 0, table.rows) for table, shard in zip(schema.tables, shards, strict=True)]
    slices = assign(schema, placed, 2, encoding="fp32")
    plan = ShardPlan(strategy="random", num_shards=2, replicas=(1, 1), slices=slices)
    batches = random_batches(schema, [4], seed=4)
    scorer = Scorer(manifest_of(plan, schema), network)
    pooled = []
    for shard, bags in enumerate(scorer.bags_for(batches)):
        held = ShardTables(flatten_tables(tables, plan, shard=shard, hot_rows={}), plan, schema, shard=shard)
        pooled.append({net: held.pooled(net, of_net) for net, of_net in bags.items()})
    by_table = dict(zip((table.name for table in schema.tables), shards, strict=True))
    for net, pieces in scorer.pooled(batches, pooled).items():
        runs = [shard for shard, _ in groupby(schema.sparse_of(net), key=lambda feature: by_table[feature.table])]
        given = {shard: pooled[shard][net].untyped_storage().data_ptr() for shard in runs}
        assert [piece.untyped_storage().data_ptr() for piece in pieces] == [given[shard] for shard in runs]


@pytest.mark.parametrize("num_candidates", [[MANY], [3, 0, 4]], ids=["one-user", "three-users"])
@pytest.mark.parametrize("interaction", get_args(Interaction))
def test_every_interaction_scores_as_plain_torch_does(
    interaction: Interaction, num_candidates: Sequence[int], schema: Schema, tables: Tables
) -> None:
    torch.manual_seed(5)
    network = DenseNetwork(schema, NetworkConfig(interaction=interaction)).eval()
    plan, batches = random_plan(schema, num_shards=3, seed=5), random_batches(schema, num_candidates, seed=5)
    expected = plain_scores(schema, tables, network, batches).numpy()
    assert expected.std(axis=0).min() > 0.01
    np.testing.assert_allclose(sharded_scores(schema, tables, network, plan, batches), expected, atol=1e-6)


CANDIDATES = [[5], [1], [0], [2, 3], [0, 4, 0], [1, 1, 1], [], [0, 0]]


@pytest.mark.parametrize("num_candidates", CANDIDATES, ids=str)
def test_a_bundle_scores_as_plain_torch_does(
    num_candidates: Sequence[int], bundle: Path, schema: Schema, tables: Tables, network: DenseNetwork
) -> None:
    batches = random_batches(schema, num_candidates, seed=len(num_candidates))
    scores = UnshardedScorer.load(bundle).scores(batches)
    assert scores.shape == (sum(num_candidates), 2)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, plain_scores(schema, tables, network, batches).numpy(), atol=1e-6)


def test_a_bundle_made_before_there_were_interactions_is_read_as_one_of_crosses(bundle: Path, schema: Schema) -> None:
    batches, manifest = random_batches(schema, [5], seed=1), BundleManifest.read(bundle)
    expected = UnshardedScorer.load(bundle).scores(batches)
    sizes = {key: value for key, value in manifest.network.items() if key != "interaction"}
    assert sizes != manifest.network
    seal_bundle(bundle, manifest.model_copy(update={"network": sizes}))
    np.testing.assert_array_equal(UnshardedScorer.load(bundle).scores(batches), expected)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 4), st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_any_plan_scores_as_plain_torch_does(
    mixed_schema: Schema,
    mixed_tables: Tables,
    mixed_network: DenseNetwork,
    seed: int,
    num_shards: int,
    num_candidates: list[int],
) -> None:
    plan = random_plan(mixed_schema, num_shards=num_shards, seed=seed)
    batches = random_batches(mixed_schema, num_candidates, seed=seed)
    scores = sharded_scores(mixed_schema, mixed_tables, mixed_network, plan, batches)
    expected = plain_scores(mixed_schema, mixed_tables, mixed_network, batches)
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("features", [["item_id"], ["user_id"], ["user_id", "age", "item_id"], ["genres", "age"]])
def test_a_model_of_few_features_scores_as_plain_torch_does(
    features: list[str], mixed_schema: Schema, mixed_tables: Tables
) -> None:
    schema = mixed_schema.select(features=features, tasks=["love"])
    network = DenseNetwork(schema, NetworkConfig(bottom_units=(), num_cross_layers=0, top_units=())).eval()
    batches = random_batches(schema, [2, 3], seed=1)
    plan = random_plan(schema, num_shards=2, seed=1)
    scores = sharded_scores(schema, mixed_tables, network, plan, batches)
    assert scores.shape == (5, 1)
    expected = plain_scores(schema, mixed_tables, network, batches).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_the_scores_compared_differ_between_items(
    mixed_schema: Schema, mixed_tables: Tables, mixed_network: DenseNetwork
) -> None:
    batches = random_batches(mixed_schema, [20, 20], seed=5)
    scores = plain_scores(mixed_schema, mixed_tables, mixed_network, batches)
    assert scores.std(dim=0).min() > 0.01


def test_a_request_in_a_file_is_answered(bundle: Path, request_body: dict[str, Any], tmp_path: Path) -> None:
    query = tmp_path / "query.json"
    query.write_text(json.dumps(request_body))
    answer = answer_request(bundle, query)
    scorer = UnshardedScorer.load(bundle)
    batches = encode_request(tensors_from_json(request_body), scorer.manifest.feature_schema)
    assert answer["model_name"] == "students"
    assert answer["model_version"] == scorer.manifest.bundle_id
    assert [output["name"] for output in answer["outputs"]] == ["like", "love"]
    found = np.array([output["data"] for output in answer["outputs"]], dtype=np.float32).T
    np.testing.assert_array_equal(found, scorer.scores(batches))


@pytest.mark.parametrize("content", [b"{", b"\xff"])
def test_a_request_file_that_is_no_json_is_named(content: bytes, bundle: Path, tmp_path: Path) -> None:
    query = tmp_path / "query.json"
    query.write_bytes(content)
    with pytest.raises(RequestError, match=r"query\.json: cannot be read as JSON"):
        answer_request(bundle, query)


@pytest.mark.parametrize(("name", "reason"), [("gone.json", "No such file or directory"), (".", "Is a directory")])
def test_a_request_that_is_no_file_is_named_with_what_to_do(
    name: str, reason: str, bundle: Path, tmp_path: Path
) -> None:
    query = tmp_path / name
    with pytest.raises(RequestError) as raised:
        answer_request(bundle, query)
    assert str(raised.value) == f"{query}: cannot be read ({reason}); name a file with a request in JSON"


def test_a_request_whose_numbers_overflow_is_refused(
    bundle: Path, request_body: dict[str, Any], tmp_path: Path
) -> None:
    for tensor in request_body["inputs"]:
        if tensor["datatype"] == "FP32":
            tensor["data"] = [3e38] * len(tensor["data"])
    query = tmp_path / "query.json"
    query.write_text(json.dumps(request_body))
    with pytest.raises(RequestError, match=r"candidate 0 has no score for 'like': its dense features are too large"):
        answer_request(bundle, query)


def test_a_damaged_bundle_is_not_scored(bundle: Path) -> None:
    (bundle / tables_file(1)).write_bytes(b"")
    with pytest.raises(BundleError, match=r"shards/1/tables\.safetensors is damaged"):
        UnshardedScorer.load(bundle)


def reseal(folder: Path) -> None:
    """Seal a bundle again, with whatever its files are now."""
    old = BundleManifest.read(folder, verify=False)
    seal_bundle(
        folder,
        old,
    )


@pytest.mark.parametrize("name", [DENSE_FILE, tables_file(0)])
def test_a_bundle_sealed_without_one_of_its_files_is_refused(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    reseal(bundle)
    with pytest.raises(BundleError, match=name):
        UnshardedScorer.load(bundle)


@pytest.mark.parametrize("name", [DENSE_FILE, tables_file(0)])
def test_a_file_that_is_not_safetensors_is_named(name: str, bundle: Path) -> None:
    (bundle / name).write_bytes(b"not tensors")
    reseal(bundle)
    with pytest.raises(BundleError, match=name):
        UnshardedScorer.load(bundle)


def test_parameters_of_another_networks_size_are_refused(bundle: Path, schema: Schema) -> None:
    other = DenseNetwork(schema, NetworkConfig(top_units=(64, 16)))
    safetensors.torch.save_file(other.state_dict(), bundle / DENSE_FILE)
    reseal(bundle)
    with pytest.raises(BundleError, match=rf"(?s){DENSE_FILE}: .*size mismatch for trunk\.top"):
        UnshardedScorer.load(bundle)


def test_parameters_that_are_missing_are_named(bundle: Path, network: DenseNetwork) -> None:
    state = network.state_dict()
    state.pop("serving_head.bias")
    safetensors.torch.save_file(state, bundle / DENSE_FILE)
    reseal(bundle)
    with pytest.raises(BundleError, match=r"serving_head\.bias"):
        UnshardedScorer.load(bundle)


@pytest.mark.parametrize("names", [["fp16"], ["fp32", "fp16"]])
def test_tables_of_another_encoding_are_refused(names: list[str], bundle: Path, plan: ShardPlan) -> None:
    flat = torch.zeros(plan.flat_size_bytes(0), dtype=torch.uint8)
    safetensors.torch.save_file({name: flat.clone() for name in names}, bundle / tables_file(0))
    with pytest.raises(BundleError, match=r"holds tensors .*, expected one, fp32"):
        load_shard_tables(bundle, BundleManifest.read(bundle, verify=False), shard=0)


def test_tables_stay_where_the_file_is_mapped(bundle: Path) -> None:
    tables = load_shard_tables(bundle, BundleManifest.read(bundle), shard=0)
    assert any(str(bundle / tables_file(0)) in line for line in Path("/proc/self/maps").read_text().splitlines())
    del tables


def test_tables_of_another_length_are_refused(bundle: Path) -> None:
    safetensors.torch.save_file({"fp32": torch.zeros(4, dtype=torch.uint8)}, bundle / tables_file(0))
    with pytest.raises(BundleError, match="the tables of shard 0 are 4 x"):
        load_shard_tables(bundle, BundleManifest.read(bundle, verify=False), shard=0)
