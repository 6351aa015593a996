"""Settings of a foundation model."""

from typing import Annotated

from pydantic import Field

from exfm.config import Config, like
from exfm.models.config import ModelConfig, NetworkConfig
from exfm.training.config import TrainingConfig


class FoundationConfig(Config):
    """A foundation model and how it is trained."""

    name: Annotated[
        str,
        like("[a-z][a-z0-9_]{0,29}", "a lower-case letter, then such, digits and underscores; at most 30 in all"),
    ] = "fm"
    """Part of its pseudo-label columns' names: lower-case letters, digits and underscores, 30 at most."""
    features: tuple[str, ...] = ()
    """Features of the schema that it reads; empty: all."""
    tasks: tuple[str, ...] = ()
    """Labels of the schema that it learns and teaches; empty: all."""
    model: ModelConfig = ModelConfig(network=NetworkConfig(top_units=(128, 64)), dim_factor=12)
    """Settings of the foundation model's network and tables. The defaults give it over ten times the parameters of a
    vertical model."""
    training: TrainingConfig = TrainingConfig()
    warm_start: str = ""
    """Folder or URL of an earlier run's output of this model (`fm/NAME`) to continue; empty: train from the first
    window."""
    published: str = ""
    """Folder or URL of a foundation model that another run trained (its `fm/NAME`): `exfm das` scores by its snapshots,
    and does not train it. Empty: train."""
    snapshot_every: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Windows learned between two snapshots; 1 to 10,000. More windows save space, and make pseudo-labels older."""
