"""The stage that trains a vertical model on its domains' examples."""

from pathlib import Path

import polars as pl

from exfm.artifact.storage import Ref, reading, writing
from exfm.distill.config import VerticalConfig
from exfm.distill.learner import DistillationLearner
from exfm.errors import ConfigError
from exfm.events.examples import ExamplesManifest
from exfm.events.partitions import read_partition
from exfm.models.ranking import RankingModel
from exfm.training.learner import LabelLearner
from exfm.training.manifest import ALONE, ModelManifest
from exfm.training.run import Data, OnWindow, run_training


def train_vertical(
    config: VerticalConfig,
    *,
    teacher: str,
    examples: Ref,
    out: str,
    on_window: OnWindow = lambda num_done, num_windows: None,
) -> ModelManifest:
    """Train a vertical model with the pseudo-labels of foundation model `teacher`; return its manifest.

    Raises: ConfigError if the examples have no pseudo-labels of that teacher, or none of a domain; SchemaError for an
    unknown feature or task; DataError for unusable examples, or if a task has no pseudo-labels.
    """
    with reading(examples) as dataset, writing(out) as folder:
        manifest = ExamplesManifest.read(dataset)
        if teacher not in manifest.fm_snapshots:
            raise ConfigError(
                f"vertical model {config.name!r}: no pseudo-labels of {teacher!r} in {examples.uri}; "
                f"there are those of {', '.join(manifest.fm_snapshots)}"
            )
        schema = manifest.feature_schema.select(features=config.features, tasks=config.tasks)
        data = Data(
            datasets=(dataset,),
            log_schema=manifest.feature_schema,
            schema=schema,
            windows=manifest.windows,
            known_until=manifest.known_until,
            domains=config.domains,
            teacher=teacher,
        )
        _require_domains(config, dataset, manifest)
        learner = DistillationLearner(RankingModel(schema, config.model), teacher_weight=config.teacher_weight)
        num_walks = 2 if config.compare_label_only else 1
        outcome = run_training(
            learner,
            data,
            config.training,
            folder=folder,
            name=config.name,
            snapshot_every=0,
            on_window=lambda num_done, num_windows: on_window(num_done, num_walks * num_windows),
        )
        alone = {}
        if config.compare_label_only:
            alone = run_training(
                LabelLearner(RankingModel(schema, config.model)),
                data,
                config.training,
                folder=folder / ALONE,
                name=config.name,
                snapshot_every=0,
                with_references=False,
                on_window=lambda num_done, num_windows: on_window(num_windows + num_done, num_walks * num_windows),
            ).overall.own
        return outcome.manifest(
            learner.model,
            data,
            config.training,
            kind="vertical",
            name=config.name,
            label_revision=manifest.label_revision,
            inputs={"examples": examples},
            alone=alone,
        ).write(folder)


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
