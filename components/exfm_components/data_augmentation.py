"""A run's data augmentation system, and the models that learn from its tables."""

from functools import partial

from exfm.artifact.storage import MANIFEST, Ref, ref_to
from exfm.artifact.stores import exists, join
from exfm.das.log_tables import Das
from exfm.distill.config import VerticalConfig
from exfm.distill.learner import DistillationLearner
from exfm.training.learner import LabelLearner
from exfm.training.line import Line
from exfm_components.run_config import RunConfig


def das_of(run: RunConfig) -> Das:
    """Return the system of a run."""
    return Das(root=run.root, schema=run.feature_schema, window_length=run.window_length, config=run.das)


def foundation_lines(run: RunConfig) -> dict[str, Line | Ref | None]:
    """Return the run's foundation models by name: to be trained, or published; None: not published yet."""
    return {
        model.name: _published(model.published)
        if model.published
        else Line(
            name=model.name,
            schema=run.feature_schema.select(features=model.features, tasks=model.tasks),
            model=model.model,
            training=model.training,
            make=LabelLearner,
        )
        for model in run.foundation_models
    }


def vertical_lines(run: RunConfig) -> list[Line]:
    """Return the run's vertical models."""
    return [
        Line(
            name=model.name,
            schema=run.feature_schema.select(features=model.features, tasks=model.tasks),
            model=model.model,
            training=model.training,
            make=partial(DistillationLearner, config=model.distillation, teachers=_taught_by(run, model)),
            domains=model.domains,
            teachers=_taught_by(run, model),
            others=(model.distillation,),
        )
        for model in run.vertical_models
    ]


def _taught_by(run: RunConfig, model: VerticalConfig) -> tuple[str, ...]:
    return () if model.distillation.method == "label" else run.teachers_of(model)


def _published(uri: str) -> Ref | None:
    return ref_to(uri) if exists(join(uri, MANIFEST)) else None
