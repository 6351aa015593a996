"""A comparison of distillation methods, by the pipeline's step or after a run: figures, page and MLflow run."""

from exfm.artifact.storage import Ref
from exfm.evaluation.comparison import Comparison
from exfm.evaluation.config import ComparisonConfig
from exfm.evaluation.stage import compare
from exfm.registry.mlflow_registry import Registry
from exfm.registry.runs import log_comparison
from exfm.report.distillation.page import write_page
from exfm.report.distillation.tracking import metrics_of, params_of
from exfm.training.run import OnWindow
from exfm_components import layout
from exfm_components.run_config import RunConfig


def compare_methods(
    config: ComparisonConfig, run: RunConfig, *, root: str, examples: Ref, on_window: OnWindow
) -> Comparison:
    """Compare methods for a run's vertical models, write figures and page below `root`, and return the figures.

    They are logged as a run of the registry that `root` has.

    Raises: StorageError if the registry does not answer; what `exfm.evaluation.stage.compare` raises.
    """
    registry = Registry.at(root, create=True)
    registry.require()
    found = compare(
        config,
        name=run.name,
        verticals=run.vertical_models,
        teachers={model.name: run.teachers_of(model) for model in run.vertical_models},
        examples=examples,
        out=layout.comparison(root),
        on_window=on_window,
    )
    write_page(found, layout.comparison_page(root))
    log_comparison(
        registry,
        f"{run.name} comparison",
        params=params_of(found),
        metrics=metrics_of(found),
        files=(layout.comparison(root), layout.comparison_page(root)),
    )
    return found
