"""Attribute feedback to the impressions of windows whose attribution windows are over."""

from exfm_components.stages.data_processing.make_labels.component import make_labels

__all__ = ["make_labels"]
