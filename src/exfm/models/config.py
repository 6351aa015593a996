"""Settings of a model: its sizes, its training and its serving.

They are apart from the networks, so that reading them loads no torch.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from exfm.config import Config
from exfm.errors import ConfigError
from exfm.schema import Schema

Units = Annotated[int, Field(ge=1, le=16_384)]

Precision = Literal["fp32", "bf16", "int8"]
"""Precision of the factors in dense layers. Products are added up in float32, for int8 in integers."""

PooledPrecision = Literal["fp32", "fp16"]
"""Precision of pooled embeddings in a shard's answer. Rows are added up in fp32."""

Interaction = Literal["dcnv2", "deepfm", "dlrm"]
"""How features meet: each is a module of exfm.models.interactions of that name."""

_OF_EQUAL_DIMS: frozenset[Interaction] = frozenset({"deepfm", "dlrm"})
"""Interactions that multiply pooled embeddings number by number."""
_ONLY_OF: dict[str, Interaction] = {"num_cross_layers": "dcnv2", "cross_rank": "dcnv2"}
"""Settings that one interaction alone uses."""

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

    interaction: Interaction = "dcnv2"
    """How features meet beside or below the top layers: `dcnv2`, cross layers; `deepfm`, a factorization machine;
    `dlrm`, dot products of all pairs. The last two need tables of equal `dim`."""
    bottom_units: tuple[Units, ...] = (32,)
    """Hidden units of each layer over the dense features; 1 to 16,384. Empty: no layer. `deepfm` and `dlrm` add a layer
    of the tables' `dim`."""
    num_cross_layers: Annotated[int, Field(ge=0, le=8)] = 2
    """Cross layers of `dcnv2`, each of which adds one order of feature interaction; 0 to 8. 0: none."""
    cross_rank: Annotated[int, Field(ge=1, le=4096)] = 32
    """Rank of the matrix of a cross layer of `dcnv2`; 1 to 4,096."""
    top_units: tuple[Units, ...] = (64, 32)
    """Hidden units of each layer over embeddings and dense features, or over their dot products; 1 to 16,384. Empty: no
    layer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        unused = [name for name in self._unused() if name in self.model_fields_set]
        if unused:
            raise ValueError(
                f"interaction {self.interaction!r} has no {' or '.join(unused)}; leave out what only "
                f"{_ONLY_OF[unused[0]]!r} uses, or set that interaction"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return what reads as these settings: a default of no use would be refused."""
        return {name: value for name, value in handler(self).items() if name not in self._unused()}

    def _unused(self) -> list[str]:
        return [name for name, interaction in _ONLY_OF.items() if interaction != self.interaction]

    def require_dims(self, schema: Schema) -> None:
        """Check that a schema's tables suit the interaction.

        Raises: ConfigError, which names a table, its dim, and the dim that it needs.
        """
        first, *others = schema.tables
        for table in others:
            if self.interaction in _OF_EQUAL_DIMS and table.dim != first.dim:
                raise ConfigError(
                    f"table {table.name!r} has dim {table.dim}, table {first.name!r} has dim {first.dim}, but "
                    f"interaction {self.interaction!r} needs tables of equal dims: set dim {first.dim} for "
                    f"{table.name!r}, or interaction dcnv2"
                )


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
