"""A comparison of distillation methods, by the pipeline's step or after a run: figures, page and MLflow run."""

from contextlib import suppress

from exfm.artifact.storage import ref_to
from exfm.artifact.stores import exists
from exfm.das.closing import LogState
from exfm.das.joining import example_table
from exfm.errors import ConfigError, StorageError
from exfm.evaluation.comparison import Comparison
from exfm.evaluation.config import ComparisonConfig
from exfm.evaluation.stage import compare, digest_of_settings
from exfm.registry.mlflow_registry import Registry
from exfm.registry.runs import log_comparison
from exfm.report.distillation.page import write_page
from exfm.report.distillation.tracking import metrics_of, params_of
from exfm.training.loop import OnWindow
from exfm_components import layout
from exfm_components.data_augmentation import das_of
from exfm_components.run_config import RunConfig


def why_not_yet(run: RunConfig) -> str:
    """Return why a young run's methods cannot be compared yet; empty: they can."""
    warmup_windows = max(model.training.warmup_windows for model in run.vertical_models)
    examples = example_table(LogState.of(das_of(run)))
    if len(examples.windows) <= warmup_windows:
        return "there are too few windows after the warm-up"
    for name in (model.name for model in run.foundation_models if model.published):
        if not examples.has_pseudo_labels(name):
            return f"no example has a pseudo-label of foundation model {name!r}, which is trained elsewhere"
    return ""


def compare_methods(config: ComparisonConfig, run: RunConfig, *, root: str, on_window: OnWindow) -> Comparison:
    """Compare methods for a run's vertical models, write figures and page below `root`, and return the figures.

    They are logged as a run of the registry that `root` has. Figures of these examples and settings that are there stay
    as they are.

    Raises: StorageError if there are no examples, or the registry does not answer; what
    `exfm.evaluation.stage.compare` raises.
    """
    examples = example_table(LogState.of(das_of(run)))
    if not examples.windows:
        raise StorageError(f"{examples.state.uri}: no examples there to compare on; run `exfm run` first")
    foundations = {
        model.name: ref_to(model.published or layout.model(root, model.name)) for model in run.foundation_models
    }
    teachers = {model.name: run.teachers_of(model) for model in run.vertical_models}
    if exists(layout.comparison(root)):
        with suppress(ConfigError):  # an earlier release's are made again
            before = Comparison.read(layout.comparison(root))
            made_by = digest_of_settings(config, run.vertical_models, teachers)
            taught_by = {name: foundations.get(name) for name in before.foundation_models}
            if (before.examples, before.made_by, before.foundation_models) == (examples.ref, made_by, taught_by):
                return before
    registry = Registry.at(root, create=True)
    registry.require()
    found = compare(
        config,
        name=run.name,
        verticals=run.vertical_models,
        teachers=teachers,
        foundations=foundations,
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
