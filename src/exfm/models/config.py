"""Sizes of a model, and how it starts and learns; apart from the networks, so that reading settings needs no torch."""

from typing import Annotated, Literal

from pydantic import Field

from exfm.config import Config

Units = Annotated[int, Field(ge=1, le=16_384)]


Precision = Literal["fp32", "bf16", "int8"]
"""Of the factors that a served network's layers multiply; products add up in float32, or of int8 in integers."""


class NetworkConfig(Config):
    """Sizes of a dense network."""

    bottom_units: tuple[Units, ...] = (32,)
    """Hidden units of each layer over the dense features; 1 to 16,384. Empty: they enter as they are."""
    num_cross_layers: Annotated[int, Field(ge=0, le=8)] = 2
    """Cross layers, each of which multiplies in one more order of interaction; 0 to 8."""
    cross_rank: Annotated[int, Field(ge=1, le=4096)] = 32
    """Rank of a cross layer's matrix; 1 to 4096."""
    top_units: tuple[Units, ...] = (64, 32)
    """Hidden units of each layer over embeddings and dense features; 1 to 16,384."""


class TablesConfig(Config):
    """How embedding tables learn."""

    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.05
    """Of row-wise Adagrad, per step; more than 0, at most 10."""
    init_scale: Annotated[float, Field(ge=0, le=10)] = 0.05
    """Rows start uniform in [-init_scale, init_scale]; 0 to 10."""


class ModelConfig(Config):
    """A model's sizes, and how it starts and learns."""

    network: NetworkConfig = NetworkConfig()
    tables: TablesConfig = TablesConfig()
    dim_factor: Annotated[int, Field(ge=1, le=64)] = 1
    """Times the schema's dim of every table; 1 to 64."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of all first parameters."""
