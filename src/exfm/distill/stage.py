"""The stage that trains a vertical model on its domains' examples."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from exfm.artifact.output import writing
from exfm.artifact.storage import Ref, reading
from exfm.distill.config import VerticalConfig
from exfm.distill.learner import DistillationLearner
from exfm.errors import ConfigError
from exfm.events.examples import ExamplesManifest
from exfm.events.partitions import partition, read_partition
from exfm.models.ranking import RankingModel
from exfm.schema import pseudo_label_column
from exfm.training.manifest import ModelManifest
from exfm.training.run import Data, OnWindow, run_training


def train_vertical(
    config: VerticalConfig,
    *,
    teachers: Sequence[str],
    examples: Ref,
    out: str,
    on_window: OnWindow = lambda num_done, num_windows: None,
) -> ModelManifest:
    """Train a vertical model with the pseudo-labels of foundation models, or by labels only; return its manifest.

    Raises: ConfigError if the examples have no pseudo-labels of a teacher, or not of a task, or none of a domain;
    SchemaError for an unknown feature or task; DataError for unusable examples.
    """
    teachers = () if config.distillation.method == "label" else teachers
    with reading(examples) as dataset, writing(out) as folder:
        data = vertical_data(config, examples, teachers=teachers, dataset=dataset)
        model = RankingModel(data.schema, config.model)
        learner = DistillationLearner(model, config.distillation, teachers=teachers)
        trained = run_training(
            learner,
            data,
            config.training,
            folder=folder,
            name=config.name,
            snapshot_every=0,
            on_window=on_window,
        )
        return trained.model_copy(update={"teacher_weights": learner.teacher_weights}).write(folder)


def vertical_data(config: VerticalConfig, examples: Ref, *, teachers: Sequence[str], dataset: Path) -> Data:
    """Return what a vertical model learns from; `dataset` is the local folder of `examples`.

    Raises: as `train_vertical` does of a configuration that does not fit the examples.
    """
    manifest = ExamplesManifest.read(dataset)
    data = Data(
        datasets=(dataset,),
        log_schema=manifest.feature_schema,
        schema=manifest.feature_schema.select(features=config.features, tasks=config.tasks),
        windows=manifest.windows,
        known_until=manifest.known_until,
        domains=config.domains,
        kind="vertical",
        teachers=teachers,
        label_revision=manifest.label_revision,
        inputs={"examples": examples},
    )
    _require_domains(config, dataset, manifest)
    _require_pseudo_labels(config.name, data, dataset, manifest, source=examples.uri)
    return data


def _require_pseudo_labels(name: str, data: Data, dataset: Path, examples: ExamplesManifest, *, source: str) -> None:
    columns = pl.read_parquet_schema(partition(dataset, data.windows[0]))
    for teacher in data.teachers:
        if not examples.fm_snapshots.get(teacher):
            known = ", ".join(fm for fm, snapshot in examples.fm_snapshots.items() if snapshot) or "no model"
            raise ConfigError(
                f"vertical model {name!r}: no pseudo-labels of {teacher!r} in {source}; there are those of {known}; "
                "name one of these, train on a longer log, or set distillation.method to label"
            )
        untaught = [task for task in data.schema.tasks() if pseudo_label_column(teacher, task) not in columns]
        if untaught:
            raise ConfigError(
                f"vertical model {name!r}: foundation model {teacher!r} does not teach task {', '.join(untaught)}; add "
                "it to the foundation model's tasks, or leave it out of the vertical model's"
            )


def _require_domains(config: VerticalConfig, dataset: Path, examples: ExamplesManifest) -> None:
    column = examples.feature_schema.domain
    domains = pl.concat([read_partition(dataset, window, columns=[column]) for window in examples.windows])
    known = set(domains[column].unique())
    unknown = [domain for domain in config.domains if domain not in known]
    if unknown:
        raise ConfigError(
            f"vertical model {config.name!r}: no example is of domain {', '.join(map(repr, unknown))}; "
            f"the examples' domains are {', '.join(sorted(known))}"
        )
