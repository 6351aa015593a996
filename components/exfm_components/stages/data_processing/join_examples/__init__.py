"""Join features, labels and pseudo-labels into one table."""

from exfm_components.stages.data_processing.join_examples.component import join_examples

__all__ = ["join_examples"]
