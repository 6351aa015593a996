"""Have one foundation model score complete windows, which gives pseudo-labels, and learn labelled ones."""

from exfm_components.stages.training.train_foundation.component import train_foundation

__all__ = ["train_foundation"]
