"""A vertical model as a line, which learns one window after the other."""

from collections.abc import Sequence
from functools import partial

from exfm.distill.config import VerticalConfig
from exfm.distill.learner import DistillationLearner
from exfm.schema import Schema
from exfm.training.line import Line


def vertical_line(config: VerticalConfig, schema: Schema, *, teachers: Sequence[str]) -> Line:
    """Return the line of a vertical model, which learns from labels and these foundation models; `schema` is the log's.

    Raises: SchemaError for an unknown feature or task.
    """
    taught_by = () if config.distillation.method == "label" else tuple(teachers)
    return Line(
        kind="vertical",
        name=config.name,
        schema=schema.select(features=config.features, tasks=config.tasks),
        model=config.model,
        training=config.training,
        make=partial(DistillationLearner, config=config.distillation, teachers=taught_by),
        domains=config.domains,
        teachers=taught_by,
        others=(config.distillation,),
    )
