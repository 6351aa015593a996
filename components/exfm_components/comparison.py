"""A comparison of distillation methods, by the pipeline's step or after a run: figures and page."""

from exfm.artifact.storage import Ref
from exfm.evaluation.comparison import Comparison
from exfm.evaluation.config import ComparisonConfig
from exfm.evaluation.stage import compare
from exfm.report.distillation.page import write_page
from exfm.training.run import OnWindow
from exfm_components import layout
from exfm_components.run_config import RunConfig


def compare_methods(
    config: ComparisonConfig, run: RunConfig, *, root: str, examples: Ref, on_window: OnWindow
) -> Comparison:
    """Compare methods for a run's vertical models, write figures and page below `root`, and return the figures.

    Raises: what `exfm.evaluation.stage.compare` raises.
    """
    found = compare(
        config,
        name=run.name,
        verticals=run.vertical_models,
        teacher=run.foundation.name,
        examples=examples,
        out=layout.comparison(root),
        on_window=on_window,
    )
    write_page(found, layout.comparison_page(root))
    return found
