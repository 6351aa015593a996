"""Components that measure models: comparison of methods, judgement, smoke test, report."""

from exfm_components.stages.evaluation.compare import compare
from exfm_components.stages.evaluation.judge import judge
from exfm_components.stages.evaluation.report import report
from exfm_components.stages.evaluation.smoke_test import smoke_test

__all__ = ["compare", "judge", "report", "smoke_test"]
