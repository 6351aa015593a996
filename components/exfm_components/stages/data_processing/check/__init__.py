"""Find out whether a run can work before it begins."""

from exfm_components.stages.data_processing.check.component import check

__all__ = ["check"]
