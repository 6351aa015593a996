"""Settings of a foundation model."""

from typing import Annotated

from pydantic import Field, StringConstraints

from exfm.config import Config
from exfm.models.config import ModelConfig, NetworkConfig
from exfm.training.config import TrainingConfig


class FoundationConfig(Config):
    """A foundation model and how it is trained."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,29}$")] = "fm"
    """In the names of its pseudo-label columns: lower-case letters, digits, underscores; at most 30 characters."""
    features: tuple[str, ...] = ()
    """Of the schema; empty: all."""
    tasks: tuple[str, ...] = ()
    """Of the schema's labels; empty: all."""
    model: ModelConfig = ModelConfig(
        network=NetworkConfig(bottom_units=(32,), num_cross_layers=2, cross_rank=32, top_units=(128, 64)), dim_factor=12
    )
    """Its defaults give over ten times the parameters of a vertical model's defaults."""
    training: TrainingConfig = TrainingConfig()
    snapshot_every: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Windows learned between two snapshots, 1 to 10,000: more saves space and makes pseudo-labels staler."""
