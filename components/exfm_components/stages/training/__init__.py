"""Components that train models: foundation models, vertical models."""

from exfm_components.stages.training.train_foundation import train_foundation
from exfm_components.stages.training.train_vertical import train_vertical

__all__ = ["train_foundation", "train_vertical"]
