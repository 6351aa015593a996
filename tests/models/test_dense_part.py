"""That requests scored together get the scores that each gets alone, in their order."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_model import random_batches

from exfm.models.config import NetworkConfig
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

MANY = [500]
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


def assert_scored_as_alone(dense: DensePart, requests: Sequence[Unscored]) -> None:
    together = dense.scores(requests)
    assert len(together) == len(requests)
    for request, found in zip(requests, together, strict=True):
        [expected] = dense.scores([request])
        np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_requests_of_every_kind_are_scored_together_as_alone(schema: Schema, device: str) -> None:
    dense = dense_part(schema, NetworkConfig(), device=torch.device(device))
    shapes = [MANY, [1], [2, 0, 3], [0], [70], [1, 1, 1], [300], [40, 50]]
    requests = [unscored(dense, schema, shape, seed=seed) for seed, shape in enumerate(shapes)]
    assert_scored_as_alone(dense, requests)
    assert_scored_as_alone(dense, requests[::-1])
    scores_NT = np.concatenate(dense.scores(requests))
    assert scores_NT.shape == (sum(map(sum, shapes)), len(schema.labels))
    assert scores_NT.std(axis=0).min() > 0.01


@given(
    shapes=st.lists(
        st.one_of(st.just(MANY), st.lists(st.integers(0, 90), min_size=1, max_size=3)), min_size=1, max_size=5
    ),
    num_cross_layers=st.integers(0, 3),
    top_units=st.sampled_from([(), (6, 4)]),
    has_user=st.booleans(),
)
def test_any_requests_are_scored_together_as_alone(
    schema: Schema, shapes: list[list[int]], num_cross_layers: int, top_units: tuple[int, ...], has_user: bool
) -> None:
    if not has_user:
        schema = schema.select(features=[feature.name for feature in schema.sparse_of("item")])
    config = NetworkConfig(num_cross_layers=num_cross_layers, cross_rank=3, top_units=top_units)
    dense = dense_part(schema, config)
    assert_scored_as_alone(dense, [unscored(dense, schema, shape, seed=seed) for seed, shape in enumerate(shapes)])


def test_both_ways_of_scoring_are_tried(schema: Schema) -> None:
    dense = dense_part(schema, NetworkConfig())
    assert dense.meets_once(unscored(dense, schema, MANY, seed=0))
    assert not dense.meets_once(unscored(dense, schema, [1], seed=0))
    assert not dense.meets_once(unscored(dense, schema, [250, 250], seed=0))


def test_no_requests_have_no_scores(schema: Schema) -> None:
    assert dense_part(schema, NetworkConfig()).scores([]) == []
