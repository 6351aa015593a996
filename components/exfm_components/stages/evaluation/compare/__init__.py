"""Train every vertical model by several methods, to measure what distillation gains."""

from exfm_components.stages.evaluation.compare.component import compare

__all__ = ["compare"]
