"""How a model is trained."""

from typing import Annotated

from pydantic import Field

from exfm.config import Config


class TrainingConfig(Config):
    """How a model walks through its examples."""

    batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = 256
    """Examples a step; 1 to 1,048,576."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.002
    """Of Adam on the dense network, per step; more than 0, at most 1."""
    warmup_windows: Annotated[int, Field(ge=0)] = 4
    """First windows that are tested but not counted in a model's overall quality; 0 counts all."""
