"""A vertical model's slice of the examples, checked against its settings before anything is trained."""

from collections.abc import Mapping

from exfm.distill.config import VerticalConfig
from exfm.distill.domains import require_domains
from exfm.errors import ConfigError
from exfm.events.examples import ExampleTable
from exfm.training.data import Data
from exfm.training.manifest import ModelManifest


def vertical_data(config: VerticalConfig, examples: ExampleTable, *, teachers: Mapping[str, ModelManifest]) -> Data:
    """Return what a vertical model learns from when these foundation models teach it.

    Raises: ConfigError if no example has a pseudo-label of a teacher, or is of a domain, or if a teacher lacks a task;
    SchemaError for an unknown feature or task; StorageError if a file is missing or damaged.
    """
    schema = examples.schema.select(features=config.features, tasks=config.tasks)
    require_domains([config], examples.state, column=examples.schema.domain, row="example")
    for name, teacher in teachers.items():
        _require_pseudo_labels(config, examples, name)
        untaught = [task for task in schema.tasks() if task not in teacher.feature_schema.tasks()]
        if untaught:
            raise ConfigError(
                f"vertical model {config.name!r}: foundation model {name!r} does not teach task {', '.join(untaught)}; "
                "add it to the foundation model's tasks, or leave it out of the vertical model's"
            )
    return Data(examples, schema, domains=config.domains, teachers=tuple(teachers))


def _require_pseudo_labels(config: VerticalConfig, examples: ExampleTable, teacher: str) -> None:
    if not examples.has_pseudo_labels(teacher):
        raise ConfigError(
            f"vertical model {config.name!r}: no example has a pseudo-label of foundation model {teacher!r}; leave it "
            "out of the vertical model's `teachers`, join the examples with it, or wait for a longer log"
        )
