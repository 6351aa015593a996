"""What each interaction computes, held against sums by hand and against torch's own layers, pair by pair."""

from itertools import combinations
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from exfm.errors import ConfigError
from exfm.models.config import Interaction, ModelConfig, NetworkConfig
from exfm.models.interactions import trunk_of
from exfm.models.interactions.dcnv2 import LowRankCrossLayer
from exfm.models.interactions.deepfm import products_of_pairs, sums
from exfm.models.interactions.dlrm import dot_products, num_pairs
from exfm.models.network import DenseNetwork
from exfm.models.ranking import RankingModel
from exfm.schema import Schema

A, B, C = [1.0, 2.0], [3.0, 4.0], [5.0, -2.0]
"""Three fields of two numbers."""

UNUSED = {"num_cross_layers": 2, "cross_rank": 32}


def test_a_cross_layer_is_its_formula() -> None:
    torch.manual_seed(0)
    layer = LowRankCrossLayer(5, rank=2)
    x0, x = torch.randn(3, 5), torch.randn(3, 5)
    expected = x0 * (x @ layer.down.weight.T @ layer.up.weight.T + layer.up.bias) + x
    torch.testing.assert_close(layer(x0, x), expected)


def test_a_cross_layer_has_the_gradients_that_torch_gives_its_formula() -> None:
    torch.manual_seed(0)
    layer = LowRankCrossLayer(5, rank=2).double()
    x0_BX, x_BX = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(layer, (x0_BX, x_BX))
    inputs = (x0_BX, x_BX, *layer.parameters())
    formula_BX = torch.addcmul(x_BX, x0_BX, layer.up(layer.down(x_BX)))
    weights_BX = torch.randn(3, 5, dtype=torch.float64)
    expected = torch.autograd.grad((weights_BX * formula_BX).sum(), inputs)
    found = torch.autograd.grad((weights_BX * layer(x0_BX, x_BX)).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_factorization_machine_adds_up_the_products_of_pairs() -> None:
    products = products_of_pairs(*sums(torch.tensor([[*A, *B, *C]]), dim=2))
    assert products.tolist() == [[3 + 5 + 15, 8 - 4 - 8]]


def test_dot_products_are_those_of_each_pair_once() -> None:
    found = dot_products(torch.empty(0, 2), torch.tensor([[A, B, C]]))
    assert found.tolist() == [[11, 1, 7]]  # A B, A C, B C


def test_a_users_own_pairs_are_left_out() -> None:
    found = dot_products(torch.tensor([A, B]), torch.tensor([[C]]))
    assert found.tolist() == [[1, 7]]  # A C, B C


@given(num_user=st.integers(0, 4), num_rest=st.integers(0, 4), num_items=st.integers(0, 3), seed=st.integers(0, 99))
def test_a_users_own_pairs_come_before_the_rest(num_user: int, num_rest: int, num_items: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    user, rest = (torch.randn(*shape, 4, generator=generator) for shape in ((num_user,), (num_items, num_rest)))
    every = torch.cat([user.expand(num_items, -1, -1), rest], dim=1)
    own = dot_products(torch.empty(0, 4), user.unsqueeze(0)).expand(num_items, -1)
    found = dot_products(torch.empty(0, 4), every)
    assert found.shape == (num_items, num_pairs(num_user + num_rest))
    torch.testing.assert_close(found, torch.cat([own, dot_products(user, rest)], dim=1))


def inputs_of(schema: Schema, config: NetworkConfig) -> tuple[DenseNetwork, torch.Tensor, torch.Tensor]:
    """Return a network with weights far from 0, and embeddings and dense features of five examples."""
    torch.manual_seed(0)
    network = DenseNetwork(schema, config).double().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    dims = sum(schema.table(feature.table).dim for feature in schema.sparse)
    return network, torch.randn(5, dims, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)


def layer(weights: dict[str, torch.Tensor], name: str, inputs: torch.Tensor) -> torch.Tensor:
    return functional.linear(inputs, weights[f"{name}.weight"], weights[f"{name}.bias"])


def test_deepfm_is_its_formula(schema: Schema) -> None:
    config = NetworkConfig(interaction="deepfm", bottom_units=(3,), top_units=(6,))
    network, pooled, dense = inputs_of(schema, config)
    weights = network.state_dict()
    dense_field = layer(weights, "trunk.bottom.2", layer(weights, "trunk.bottom.0", dense).relu()).relu()
    fields = [*pooled.split(8, dim=1), dense_field]
    first_order = torch.cat(fields, dim=1)
    second_order = sum(one * other for one, other in combinations(fields, 2))
    deep = layer(weights, "trunk.top.0", first_order).relu()
    expected = layer(weights, "serving_head", torch.cat([first_order, torch.as_tensor(second_order), deep], dim=1))
    torch.testing.assert_close(network(pooled, dense), expected)


def test_dlrm_is_its_formula(schema: Schema) -> None:
    config = NetworkConfig(interaction="dlrm", bottom_units=(3,), top_units=(6,))
    network, pooled, dense = inputs_of(schema, config)
    weights = network.state_dict()
    dense_field = layer(weights, "trunk.bottom.2", layer(weights, "trunk.bottom.0", dense).relu()).relu()
    fields = [*pooled.split(8, dim=1), dense_field]
    products = [(fields[i] * fields[j]).sum(dim=1) for i in range(len(fields)) for j in range(i)]
    deep = layer(weights, "trunk.top.0", torch.cat([torch.stack(products, dim=1), dense_field], dim=1)).relu()
    torch.testing.assert_close(network(pooled, dense), layer(weights, "serving_head", deep))


@pytest.mark.parametrize("interaction", get_args(Interaction))
def test_every_interaction_has_a_trunk_that_says_how_wide_it_is(interaction: Interaction, schema: Schema) -> None:
    trunk = trunk_of(schema, NetworkConfig(interaction=interaction))
    dims = sum(schema.table(feature.table).dim for feature in schema.sparse)
    assert trunk(torch.randn(3, dims), torch.randn(3, 2)).shape == (3, trunk.num_units)


def test_settings_written_before_there_were_interactions_are_those_of_crosses() -> None:
    written = {"bottom_units": [3], "num_cross_layers": 1, "cross_rank": 2, "top_units": [6]}
    assert NetworkConfig.parse(written, source="manifest.json").interaction == "dcnv2"


@pytest.mark.parametrize("settings", [{"num_cross_layers": 1}, {"interaction": "deepfm"}, {"interaction": "dlrm"}])
def test_settings_that_are_written_can_be_read(settings: dict[str, Any]) -> None:
    config = NetworkConfig(**settings)
    written = config.to_dict()
    assert NetworkConfig.parse(written, source="manifest.json") == config
    assert written["interaction"] == config.interaction
    assert ("cross_rank" in written) == (config.interaction == "dcnv2")


@pytest.mark.parametrize("name", UNUSED)
@pytest.mark.parametrize("interaction", ["deepfm", "dlrm"])
def test_a_setting_that_an_interaction_does_not_use_is_refused(interaction: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"interaction '{interaction}' has no {name}; leave out what only 'dcnv2'"):
        NetworkConfig.parse({"interaction": interaction, name: UNUSED[name]}, source="run.yaml")


@pytest.mark.parametrize("interaction", ["deepfm", "dlrm"])
def test_tables_of_other_dims_than_an_interaction_needs_are_named(interaction: Interaction, schema: Schema) -> None:
    tables = [t.to_dict() | {"dim": 12 if t.name == "item" else t.dim} for t in schema.tables]
    other = Schema.parse(schema.to_dict() | {"tables": tables}, source="x")
    config = ModelConfig(network=NetworkConfig(interaction=interaction), dim_factor=3)
    with pytest.raises(
        ConfigError,
        match=rf"table 'item' has dim 12, table 'user' has dim 8, but interaction '{interaction}' needs tables of "
        r"equal dims: set dim 8 for 'item', or interaction dcnv2",
    ):
        RankingModel(other, config)
