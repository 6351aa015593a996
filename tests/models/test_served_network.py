"""That users met once give the scores of users met with each item."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_model import random_batches

from exfm.models.config import Interaction, NetworkConfig, Precision
from exfm.models.network import DenseNetwork, dense_inputs, expand_users
from exfm.schema import Net, Schema

CPU = dict(torch.cpu.get_capabilities())


def user_columns(schema: Schema) -> int:
    return sum(schema.table(feature.table).dim for feature in schema.sparse_of("user"))


def network_of(schema: Schema, config: NetworkConfig, *, seed: int) -> DenseNetwork:
    torch.manual_seed(seed)
    network = DenseNetwork(schema, config).double().eval()
    for parameter in network.parameters():  # biases too far from 0 to be forgotten unnoticed
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def pooled_of(schema: Schema, num_items: int) -> dict[Net, torch.Tensor]:
    item_columns = sum(schema.table(feature.table).dim for feature in schema.sparse_of("item"))
    return {
        "user": torch.randn(1, user_columns(schema), dtype=torch.float64),
        "item": torch.randn(num_items, item_columns, dtype=torch.float64),
    }


@st.composite
def configs(draw: st.DrawFn) -> NetworkConfig:
    """Return the settings of a small network of any interaction."""
    bottom_units, top_units = draw(st.sampled_from([(), (3,), (4, 2)])), draw(st.sampled_from([(), (5,), (6, 4)]))
    interaction: Interaction = draw(st.sampled_from(get_args(Interaction)))
    if interaction != "dcnv2":
        return NetworkConfig(interaction=interaction, bottom_units=bottom_units, top_units=top_units)
    num_cross_layers = draw(st.integers(0, 4))
    return NetworkConfig(
        bottom_units=bottom_units, num_cross_layers=num_cross_layers, cross_rank=3, top_units=top_units
    )


@given(
    config=configs(),
    num_items=st.integers(0, 9),
    has_user=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_logits_are_the_networks(
    schema: Schema, config: NetworkConfig, num_items: int, has_user: bool, seed: int
) -> None:
    if not has_user:
        schema = schema.select(features=[feature.name for feature in schema.sparse_of("item")])
    network = network_of(schema, config, seed=seed)
    pooled = pooled_of(schema, num_items)
    with torch.inference_mode():
        bottom = network.trunk.bottom(dense_inputs(random_batches(schema, [num_items], seed=seed)).double())
        expected = network.serving_head(network.trunk.mix(expand_users(pooled, torch.tensor([num_items])), bottom))
        found = network.served(num_user_columns=user_columns(schema)).logits(
            pooled["user"][0], torch.cat([pooled["item"], bottom], dim=1)
        )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


WIDE = [
    NetworkConfig(num_cross_layers=3, cross_rank=16, top_units=(64, 32)),
    NetworkConfig(interaction="deepfm"),
    NetworkConfig(interaction="dlrm"),
]


@pytest.mark.parametrize("cpu", ["AMD EPYC", "Intel"])
@pytest.mark.parametrize("config", WIDE, ids=lambda config: config.interaction)
@pytest.mark.parametrize("num_user_columns", [0, None])
@pytest.mark.parametrize(
    ("precision", "most"),
    [
        ("fp32", 1e-5),
        ("bf16", 0.03),
        pytest.param(
            "int8", 0.06, marks=pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this CPU has no VNNI")
        ),
    ],
)
def test_in_every_precision_the_logits_are_near(
    schema: Schema,
    config: NetworkConfig,
    precision: Precision,
    most: float,
    num_user_columns: int | None,
    cpu: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: CPU | {"cpu_name": cpu})
    torch.manual_seed(0)
    network = DenseNetwork(schema, config).eval()
    columns = user_columns(schema)
    given = columns if num_user_columns is None else num_user_columns
    pooled = {net: of_net.float() for net, of_net in pooled_of(schema, 30).items()}
    batches = random_batches(schema, [30], seed=0)
    with torch.inference_mode():
        bottom = network.trunk.bottom(dense_inputs(batches))
        x0 = torch.cat([expand_users(pooled, torch.tensor([30])), bottom], dim=1)
        expected = network.serving_head(network.trunk.mix(x0[:, : -bottom.shape[1]], bottom))
        served = network.served(num_user_columns=given, precision=precision)
        found = served.logits(pooled["user"][0], x0[:, columns:]) if given else served.logits(x0.new_empty(0), x0)
    assert found.dtype == torch.float32
    differences = (found - expected).abs()
    assert differences.max() > 0 or precision == "fp32"
    assert differences.max() < most * expected.std()


@pytest.mark.parametrize("interaction", get_args(Interaction))
@pytest.mark.parametrize(("num_items", "pays"), [(0, False), (1, False), (1_000, True)])
def test_it_pays_for_many_items(schema: Schema, interaction: Interaction, num_items: int, pays: bool) -> None:
    network = network_of(schema, NetworkConfig(interaction=interaction), seed=0)
    assert network.served(num_user_columns=user_columns(schema)).pays(num_items) is pays


@pytest.mark.parametrize("num_user_columns", [0, 16])
def test_it_never_pays_where_the_user_is_narrower_than_what_its_crosses_mix(
    schema: Schema, num_user_columns: int
) -> None:
    network = network_of(schema, NetworkConfig(num_cross_layers=4, cross_rank=128, top_units=()), seed=0)
    assert not network.served(num_user_columns=num_user_columns).pays(10_000)


@pytest.mark.parametrize("interaction", get_args(Interaction))
def test_random_numbers_go_on_as_if_nothing_was_made(schema: Schema, interaction: Interaction) -> None:
    network = network_of(schema, NetworkConfig(interaction=interaction), seed=0)
    before = torch.get_rng_state()
    network.served(num_user_columns=user_columns(schema))
    assert torch.equal(torch.get_rng_state(), before)
