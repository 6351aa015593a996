"""Settings of a model: its sizes, its training and its serving.

They are apart from the networks, so that reading them loads no torch.
"""

from typing import Annotated, Literal

from pydantic import Field

from exfm.config import Config

Units = Annotated[int, Field(ge=1, le=16_384)]

Precision = Literal["fp32", "bf16", "int8"]
"""Precision of the factors in dense layers. Products are added up in float32, for int8 in integers."""

PooledPrecision = Literal["fp32", "fp16"]
"""Precision of pooled embeddings in a shard's answer. Rows are added up in fp32."""

LocalTablesMib = Annotated[int, Field(ge=0, le=1_048_576)]


class ShardsConfig(Config):
    """What a ranker holds in addition to its shards, and what it does without one."""

    when_shard_fails: Literal["fail", "degrade"] = "fail"
    """What becomes of a request while a shard is away, late or overloaded: `fail`, an error (503, 504 or 429);
    `degrade`, scores from the bundle's fallback rows in that shard's place, marked `degraded`."""
    local_tables_mib: LocalTablesMib = 0
    """Memory for whole item tables that a ranker holds itself, those of fewest rows, in MiB (2**20 bytes); 0 to
    1,048,576. 0: none. It needs the whole bundle: a folder or `pvc://`."""


class NetworkConfig(Config):
    """Sizes of a dense network."""

    bottom_units: tuple[Units, ...] = (32,)
    """Hidden units of each layer over the dense features; 1 to 16,384. Empty: no layer."""
    num_cross_layers: Annotated[int, Field(ge=0, le=8)] = 2
    """Cross layers, each of which adds one order of feature interaction; 0 to 8. 0: none."""
    cross_rank: Annotated[int, Field(ge=1, le=4096)] = 32
    """Rank of a cross layer's matrix; 1 to 4,096."""
    top_units: tuple[Units, ...] = (64, 32)
    """Hidden units of each layer over embeddings and dense features; 1 to 16,384."""


class TablesConfig(Config):
    """How embedding tables learn."""

    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.05
    """Learning rate of row-wise Adagrad, per step; more than 0, at most 10."""
    init_scale: Annotated[float, Field(ge=0, le=10)] = 0.05
    """Rows start uniform in [-init_scale, init_scale]; 0 to 10. 0: all rows start at 0."""


class ModelConfig(Config):
    """A model's sizes, and how it starts and learns."""

    network: NetworkConfig = NetworkConfig()
    tables: TablesConfig = TablesConfig()
    dim_factor: Annotated[int, Field(ge=1, le=64)] = 1
    """Factor on the schema's `dim` of every table; 1 to 64."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the initial parameters."""
