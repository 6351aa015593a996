from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_model import random_batches

from exfm.models.config import Interaction, NetworkConfig
from exfm.models.network import DenseNetwork, dense_inputs, expand_users
from exfm.models.pooling import mean_of
from exfm.schema import Schema

DEEPFM, DLRM = {"interaction": "deepfm"}, {"interaction": "dlrm"}


def numbered(rows: int, columns: int, first: int = 0) -> torch.Tensor:
    return torch.arange(first, first + rows * columns, dtype=torch.float32).view(rows, columns)


def test_one_users_columns_stand_beside_every_item() -> None:
    found = expand_users({"user": numbered(1, 2), "item": numbered(3, 1, 10)}, torch.tensor([3]))
    assert found.tolist() == [[0, 1, 10], [0, 1, 11], [0, 1, 12]]


def test_each_user_stands_beside_its_own_items() -> None:
    found = expand_users({"user": numbered(3, 1), "item": numbered(3, 1, 10)}, torch.tensor([2, 0, 1]))
    assert found.tolist() == [[0, 10], [0, 11], [2, 12]]


@given(st.lists(st.integers(0, 4), max_size=5))
def test_users_are_repeated_as_often_as_they_have_items(counts: list[int]) -> None:
    users, items = numbered(len(counts), 2), numbered(sum(counts), 3, 100)
    found = expand_users({"user": users, "item": items}, torch.tensor(counts, dtype=torch.int64))
    owners = [user for user, count in enumerate(counts) for _ in range(count)]
    assert found.tolist() == [[*users[o].tolist(), *row] for o, row in zip(owners, items.tolist(), strict=True)]


def test_dense_inputs_are_the_users_then_the_items(schema: Schema) -> None:
    batches = random_batches(schema, [1, 2], seed=1)
    found = dense_inputs(batches)
    np.testing.assert_array_equal(found[:, 0].numpy(), batches.user.dense_BD[[0, 1, 1], 0])
    np.testing.assert_array_equal(found[:, 1].numpy(), batches.item.dense_BD[:, 0])


def test_pooled_embeddings_become_means_and_that_of_an_empty_bag_stays_zero(schema: Schema) -> None:
    batches = random_batches(schema, [12], seed=2)
    lengths = batches.item.bags["genres"].lengths
    assert 0 in lengths
    assert max(lengths) > 1
    sums = torch.from_numpy(lengths.astype(np.float32))[:, None].expand(-1, 8)
    means = mean_of(sums, batches.item, "genres")
    np.testing.assert_array_equal(means.numpy(), np.minimum(lengths, 1)[:, None].repeat(8, 1))


@pytest.mark.parametrize("bottom_units", [(), (3,), (7, 5)])
@pytest.mark.parametrize("top_units", [(), (6,)])
@pytest.mark.parametrize(
    "settings",
    [*({"num_cross_layers": number, "cross_rank": 2} for number in (0, 1, 3)), DEEPFM, DLRM],
    ids=str,
)
def test_a_network_of_any_size_gives_a_logit_for_each_task(
    bottom_units: tuple[int, ...], top_units: tuple[int, ...], settings: dict[str, Any], schema: Schema
) -> None:
    config = NetworkConfig(bottom_units=bottom_units, top_units=top_units, **settings)
    network = DenseNetwork(schema, config)
    dims = sum(schema.table(feature.table).dim for feature in schema.sparse)
    assert network(torch.randn(4, dims), torch.randn(4, 2)).shape == (4, 2)


@pytest.mark.parametrize("interaction", get_args(Interaction))
def test_every_parameter_of_a_network_moves_its_logits(interaction: Interaction, schema: Schema) -> None:
    torch.manual_seed(0)
    network = DenseNetwork(schema, NetworkConfig(interaction=interaction))
    dims = sum(schema.table(feature.table).dim for feature in schema.sparse)
    network(torch.randn(64, dims), torch.randn(64, 2)).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0] == []  # type: ignore[union-attr]


def test_a_network_of_crosses_has_the_names_that_bundles_have(schema: Schema) -> None:
    network = DenseNetwork(schema, NetworkConfig(bottom_units=(3,), num_cross_layers=1, cross_rank=2, top_units=(6,)))
    width = sum(schema.table(feature.table).dim for feature in schema.sparse) + 3
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == {
        "trunk.bottom.0.weight": (3, 2),
        "trunk.bottom.0.bias": (3,),
        "trunk.crosses.0.down.weight": (2, width),
        "trunk.crosses.0.up.weight": (width, 2),
        "trunk.crosses.0.up.bias": (width,),
        "trunk.top.0.weight": (6, width),
        "trunk.top.0.bias": (6,),
        "serving_head.weight": (2, width + 6),
        "serving_head.bias": (2,),
    }
