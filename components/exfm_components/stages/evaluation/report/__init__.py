"""Draw the run's figures into report.html, and put them into summary.json and MLflow."""

from exfm_components.stages.evaluation.report.component import report

__all__ = ["report"]
