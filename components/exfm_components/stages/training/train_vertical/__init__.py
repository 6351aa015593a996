"""Have one vertical model predict, then learn, its domains' examples with its teachers' pseudo-labels."""

from exfm_components.stages.training.train_vertical.component import train_vertical

__all__ = ["train_vertical"]
