"""Score a share of the complete windows by the foundation models that other runs train."""

from exfm_components.stages.data_processing.score.component import score

__all__ = ["score"]
