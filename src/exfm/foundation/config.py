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
        network=NetworkConfig(bottom_units=(64,), num_cross_layers=3, cross_rank=64, top_units=(256, 128)),
        dim_factor=8,
    )
    training: TrainingConfig = TrainingConfig()
    snapshot_every: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Windows learned between two snapshots, 1 to 10,000: more saves space and makes pseudo-labels staler."""
