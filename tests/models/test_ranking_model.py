from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from plain_model import plain_pooled, plain_rows, plain_scores, random_examples

from exfm.artifact.bundle import DENSE_FILE, draft_bundle, seal_bundle, tables_file
from exfm.artifact.plan import Assignment, ShardPlan, assign
from exfm.models import ranking
from exfm.models.config import ModelConfig, TablesConfig
from exfm.models.network import dense_inputs
from exfm.models.ranking import Inputs, RankingModel, num_parameters
from exfm.models.scoring import UnshardedScorer
from exfm.models.shard_tables import flatten_tables
from exfm.models.tables import EmbeddingTables, blocks_of
from exfm.schema import NETS, Schema, Table

LEARNING_RATE = 0.1


@pytest.fixture(scope="module")
def sum_schema(schema: Schema) -> Schema:
    """Return a schema whose tables all pool by sum and differ in dim; features of `item` are far apart."""
    tables = [t.to_dict() | {"pooling": "sum", "dim": 4 * (i + 1)} for i, t in enumerate(schema.tables)]
    return Schema.parse(schema.to_dict() | {"tables": tables}, source="x")


@pytest.fixture(scope="module")
def mean_schema(schema: Schema) -> Schema:
    """Return a schema whose tables all pool by mean and have one dim."""
    tables = [t.to_dict() | {"pooling": "mean", "dim": 8} for t in schema.tables]
    return Schema.parse(schema.to_dict() | {"tables": tables}, source="x")


@pytest.fixture(params=["sum_schema", "mean_schema"])
def any_schema(request: pytest.FixtureRequest) -> Any:
    """Return either of these schemas."""
    return request.getfixturevalue(request.param)


def embedding_tables(schema: Schema) -> EmbeddingTables:
    return EmbeddingTables(schema, TablesConfig(learning_rate=LEARNING_RATE, init_scale=0.5), seed=3)


def test_pooled_embeddings_are_embedding_bags_in_the_schemas_order(any_schema: Schema) -> None:
    tables = embedding_tables(any_schema)
    batches = random_examples(any_schema, 20, seed=1)
    expected = torch.cat([plain_pooled(any_schema, tables.weights(), batches, net) for net in NETS], dim=1)
    torch.testing.assert_close(tables(tables.lookups(batches)), expected)


def test_no_examples_give_no_pooled_embeddings(sum_schema: Schema) -> None:
    tables = embedding_tables(sum_schema)
    dims = sum(sum_schema.table(feature.table).dim for feature in sum_schema.sparse)
    assert tables(tables.lookups(random_examples(sum_schema, 0, seed=1))).shape == (0, dims)


def test_rows_start_within_the_scale(sum_schema: Schema) -> None:
    for weight in embedding_tables(sum_schema).weights().values():
        assert weight.abs().max() <= 0.5
        assert weight.abs().max() > 0.45
        assert weight.mean().abs() < 0.1


def test_the_same_seed_gives_the_same_rows(sum_schema: Schema) -> None:
    one, other = embedding_tables(sum_schema).weights(), embedding_tables(sum_schema).weights()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_training_is_row_wise_adagrad(any_schema: Schema) -> None:
    tables = embedding_tables(any_schema)
    weights = {name: weight.clone() for name, weight in tables.weights().items()}
    squares = {name: torch.zeros(len(weight)) for name, weight in weights.items()}
    for step in range(3):
        batches = random_examples(any_schema, 8, seed=step)
        pooled_BE = tables(tables.lookups(batches))
        coefficients_BE = torch.randn(pooled_BE.shape, generator=torch.Generator().manual_seed(step))
        (pooled_BE * coefficients_BE).sum().backward()
        # By hand: a row's gradient is the sum over its uses, in all features that share its table.
        gradients = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        column = 0
        for net in NETS:
            for feature in any_schema.sparse_of(net):
                table, bags = any_schema.table(feature.table), batches.of(net).bags[feature.name]
                part_BE = coefficients_BE[:, column : column + table.dim]
                column += table.dim
                owners = np.repeat(np.arange(batches.of(net).num_rows), bags.lengths)
                if table.pooling == "mean":
                    part_BE = part_BE / torch.from_numpy(bags.lengths).clamp(min=1)[:, None]
                gradients[table.name].index_add_(0, plain_rows(bags, table.rows), part_BE[owners])
        for name, gradient in gradients.items():
            squares[name] += gradient.square().mean(dim=1)
            used = gradient.abs().sum(dim=1) > 0
            rate = LEARNING_RATE / (squares[name][used].sqrt() + 1e-8)
            weights[name][used] -= rate[:, None] * gradient[used]
    for name, weight in weights.items():
        torch.testing.assert_close(tables.weights()[name], weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(tables.optimizer_state()[name], squares[name], rtol=1e-5, atol=1e-6)


def test_writing_to_weights_and_state_changes_what_is_trained(sum_schema: Schema) -> None:
    tables = embedding_tables(sum_schema)
    batches = random_examples(sum_schema, 8, seed=1)
    for weight in tables.weights().values():
        weight.fill_(1.0)
    for state in tables.optimizer_state().values():
        state.fill_(1e12)
    pooled_BE = tables(tables.lookups(batches))
    lengths = [batches.of(net).bags[f.name].lengths for net in NETS for f in sum_schema.sparse_of(net)]
    assert pooled_BE[:, 0].tolist() == lengths[0].tolist()
    assert pooled_BE[:, -1].tolist() == lengths[-1].tolist()
    pooled_BE.sum().backward()
    assert all((weight - 1).abs().max() < 1e-5 for weight in tables.weights().values())


def test_tables_of_one_dim_are_a_block_until_it_is_full() -> None:
    sizes = {"a": (2**30, 8), "b": (100, 16), "c": (2**30 - 2, 8), "d": (1, 8), "e": (2**32, 16), "f": (1, 16)}
    tables = [Table(name=name, rows=rows, dim=dim) for name, (rows, dim) in sizes.items()]
    assert [[table.name for table in block] for block in blocks_of(tables)] == [["a", "c"], ["b"], ["d"], ["e"], ["f"]]


@pytest.mark.parametrize("size", [1, 7, 20, 30])
def test_minibatches_are_the_examples_in_order(any_schema: Schema, size: int) -> None:
    tables = embedding_tables(any_schema)
    batches = random_examples(any_schema, 20, seed=1)
    inputs = Inputs(tables.lookups(batches), dense_inputs(batches))
    parts = list(inputs.minibatches(size))
    assert [len(part.dense_BD) for part in parts] == [min(size, 20 - start) for start in range(0, 20, size)]
    torch.testing.assert_close(torch.cat([tables(part.lookups) for part in parts]), tables(inputs.lookups))
    assert torch.equal(torch.cat([part.dense_BD for part in parts]), inputs.dense_BD)


@pytest.fixture(scope="module")
def model(schema: Schema) -> RankingModel:
    """Return a model whose embeddings are large enough to matter."""
    return RankingModel(schema, ModelConfig(dim_factor=2, tables=TablesConfig(init_scale=1.0), seed=5)).eval()


def test_probabilities_are_plain_torchs(model: RankingModel, schema: Schema) -> None:
    batches = random_examples(schema, 30, seed=1)
    expected = plain_scores(model.schema, model.tables.weights(), model.network, batches)
    found = model.probabilities(batches)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert found.std(axis=0).min() > 0.01


@pytest.mark.parametrize("rows", [1, 7, 10, 30, 31])
def test_probabilities_do_not_depend_on_the_rows_scored_at_a_time(
    rows: int, model: RankingModel, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = random_examples(schema, 30, seed=1)
    whole = model.probabilities(batches)
    monkeypatch.setattr(ranking, "SCORING_ROWS", rows)
    np.testing.assert_allclose(model.probabilities(batches), whole, atol=1e-6)


def test_no_examples_have_no_probabilities(model: RankingModel, schema: Schema) -> None:
    assert model.probabilities(random_examples(schema, 0, seed=1)).shape == (0, 2)


def test_a_model_scores_as_the_bundle_of_its_weights_does(
    model: RankingModel, schema: Schema, plan: ShardPlan, tmp_path: Path
) -> None:
    assignments = [Assignment(s.table, s.shard, s.first_row, s.num_rows) for s in plan.slices]
    wide = plan.model_copy(update={"slices": assign(model.schema, assignments, plan.num_shards)})
    files = {DENSE_FILE: model.network.state_dict()}
    for shard in range(wide.num_shards):
        files[tables_file(shard)] = {"fp32": flatten_tables(model.tables.weights(), wide, shard=shard)}
    for name, tensors in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        safetensors.torch.save_file(tensors, tmp_path / name)
    network = model.config.network.to_dict()
    seal_bundle(tmp_path, draft_bundle(name="a", schema=model.schema, network=network, plan=wide, lineage={}))
    batches = random_examples(schema, 30, seed=2)
    np.testing.assert_allclose(UnshardedScorer.load(tmp_path).scores(batches), model.probabilities(batches), atol=1e-6)


def test_scoring_trains_nothing(model: RankingModel, schema: Schema) -> None:
    before = {name: weight.clone() for name, weight in model.tables.weights().items()}
    model.probabilities(random_examples(schema, 9, seed=3))
    assert all(torch.equal(before[name], weight) for name, weight in model.tables.weights().items())


def test_a_models_parameters_are_its_tables_and_its_network(schema: Schema) -> None:
    model = RankingModel(schema, ModelConfig())
    tables = sum(table.rows * table.dim for table in schema.tables)
    assert model.num_parameters() == tables + sum(tensor.numel() for tensor in model.network.state_dict().values())
    for config in (ModelConfig(), ModelConfig(dim_factor=3)):
        wide = RankingModel(schema, config)
        there = [*wide.tables.weights().values(), *wide.network.parameters()]
        assert num_parameters(schema, config) == wide.num_parameters() == sum(weight.numel() for weight in there)


def test_the_seed_alone_decides_how_a_model_starts(schema: Schema) -> None:
    batches = random_examples(schema, 5, seed=1)
    one, same, other = (RankingModel(schema, ModelConfig(seed=seed)).probabilities(batches) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
