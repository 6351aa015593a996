"""How a model is trained."""

from typing import Annotated

from pydantic import Field

from exfm.config import Config


class TrainingConfig(Config):
    """How a model walks through its examples."""

    batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = 512
    """Examples of a step; 1 to 1,048,576."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.001
    """Learning rate of Adam on the dense network, per step; more than 0, at most 1."""
    torch_threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of one tensor operation; 1 to 256. Large networks need more than 1."""
    warmup_windows: Annotated[int, Field(ge=0)] = 4
    """First windows that are tested but do not count in a model's overall quality; 0: all count."""
