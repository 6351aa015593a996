"""A foundation model as a line, which learns one window after the other."""

from exfm.foundation.config import FoundationConfig
from exfm.schema import Schema
from exfm.training.learner import LabelLearner
from exfm.training.line import Line


def foundation_line(config: FoundationConfig, schema: Schema) -> Line:
    """Return the line of a foundation model, which learns labels of all domains; `schema` is the log's.

    Raises: SchemaError for an unknown feature or task.
    """
    return Line(
        kind="foundation",
        name=config.name,
        schema=schema.select(features=config.features, tasks=config.tasks),
        model=config.model,
        training=config.training.alone,
        make=LabelLearner,
    )
