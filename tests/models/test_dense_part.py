"""That a request gets the same scores whether its user is met once or with each candidate."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_model import random_batches

from exfm.models.config import Interaction, NetworkConfig
from exfm.models.dense_part import DensePart, Unscored
from exfm.models.device import CPU
from exfm.models.network import DenseNetwork
from exfm.schema import NETS, Schema

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")],
    ),
]

MANY = 500
"""Candidates enough for their user to be met once."""


def dense_part(schema: Schema, config: NetworkConfig, *, device: torch.device = CPU) -> DensePart:
    torch.manual_seed(0)
    network = DenseNetwork(schema, config)
    for parameter in network.parameters():  # scores far from each other
        torch.nn.init.normal_(parameter, std=0.1)
    return DensePart(network, schema, device=device)


def unscored(dense: DensePart, schema: Schema, num_candidates: Sequence[int], *, seed: int) -> Unscored:
    """Return a request of so many items for each user, with embeddings from a seed."""
    batches = random_batches(schema, num_candidates, seed=seed)
    bottom_NY = dense.bottom(batches)
    generator = torch.Generator().manual_seed(seed)
    dims = {net: sum(schema.table(feature.table).dim for feature in schema.sparse_of(net)) for net in NETS}
    pooled = {net: torch.randn(batches.of(net).num_rows, dims[net], generator=generator) for net in NETS}
    pieces = {net: of_net.to(bottom_NY.device).tensor_split(seed % 3 + 1, dim=1) for net, of_net in pooled.items()}
    return Unscored(pieces, bottom_NY, batches.num_candidates)


def of_two_users(request: Unscored) -> Unscored:
    """Return the same items as those of two users who are the same, so that none is met once."""
    first = request.num_items // 2
    users = [torch.cat([piece, piece]) for piece in request.pooled["user"]]
    return replace(
        request,
        pooled={**request.pooled, "user": users},
        num_candidates=np.array([first, request.num_items - first]),
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [[MANY], [1], [2, 0, 3], [0], [1, 1, 1]])
def test_a_request_has_a_score_for_each_item_and_task(schema: Schema, device: str, shape: list[int]) -> None:
    dense = dense_part(schema, NetworkConfig(), device=torch.device(device))
    scores_NT = dense.scores(unscored(dense, schema, shape, seed=0))
    assert scores_NT.shape == (sum(shape), len(schema.labels))
    assert sum(shape) < 2 or scores_NT.std(axis=0).min() > 1e-3


@given(
    num_items=st.sampled_from([MANY, MANY + 1]),
    num_cross_layers=st.integers(0, 3),
    top_units=st.sampled_from([(), (6, 4)]),
    has_user=st.booleans(),
    seed=st.integers(0, 9),
)
def test_a_user_met_once_gives_the_scores_of_one_met_with_each_item(
    schema: Schema, num_items: int, num_cross_layers: int, top_units: tuple[int, ...], has_user: bool, seed: int
) -> None:
    if not has_user:
        schema = schema.select(features=[feature.name for feature in schema.sparse_of("item")])
    dense = dense_part(schema, NetworkConfig(num_cross_layers=num_cross_layers, cross_rank=3, top_units=top_units))
    request = unscored(dense, schema, [num_items], seed=seed)
    assert (dense.is_user_computed_once(request), dense.is_user_computed_once(of_two_users(request))) == (
        has_user,
        False,
    )
    np.testing.assert_allclose(dense.scores(request), dense.scores(of_two_users(request)), atol=2e-6)


@pytest.mark.parametrize("interaction", get_args(Interaction))
@pytest.mark.parametrize("device", DEVICES)
def test_every_interaction_scores_a_user_met_once_as_one_met_with_each_item(
    schema: Schema, interaction: Interaction, device: str
) -> None:
    dense = dense_part(schema, NetworkConfig(interaction=interaction), device=torch.device(device))
    request = unscored(dense, schema, [MANY], seed=1)
    assert (dense.is_user_computed_once(request), dense.is_user_computed_once(of_two_users(request))) == (True, False)
    np.testing.assert_allclose(dense.scores(request), dense.scores(of_two_users(request)), atol=2e-6)


def test_a_user_is_met_once_for_many_items_and_not_for_few(schema: Schema) -> None:
    dense = dense_part(schema, NetworkConfig())
    assert dense.is_user_computed_once(unscored(dense, schema, [MANY], seed=0))
    assert not dense.is_user_computed_once(unscored(dense, schema, [1], seed=0))
    assert not dense.is_user_computed_once(unscored(dense, schema, [250, 250], seed=0))
