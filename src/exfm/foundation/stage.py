"""The stage that trains a foundation model on all domains' labelled impressions."""

from collections.abc import Sequence

from exfm.artifact.manifest import Window
from exfm.artifact.output import writing
from exfm.artifact.storage import Ref, reading, ref_to
from exfm.errors import ConfigError
from exfm.events.labels import LabelsManifest
from exfm.foundation.config import FoundationConfig
from exfm.models.ranking import RankingModel
from exfm.schema import Schema
from exfm.training.learner import LabelLearner
from exfm.training.manifest import ModelManifest
from exfm.training.run import Data, OnWindow, Start, run_training


def train_foundation(
    config: FoundationConfig,
    *,
    events: Ref,
    labels: Ref,
    out: str,
    on_window: OnWindow = lambda num_done, num_windows: None,
) -> ModelManifest:
    """Train a foundation model in one pass over a log; return its manifest.

    With `config.warm_start`, an earlier foundation model of the same sizes and of a log that began as this one does,
    only windows after the last that it learned are learned; what comes out is what one long run would give.

    Raises: SchemaError for an unknown feature or task; ConfigError if the warm start was made with other settings or of
    a log that began otherwise; StorageError if the labels were not made from `events`; DataError for unusable examples,
    or if training diverged.
    """
    warm_start = ref_to(config.warm_start) if config.warm_start else None
    with reading(events) as log, reading(labels) as labels_folder, writing(out) as folder:
        known = LabelsManifest.read(labels_folder)
        known.require_made_from(events=events)
        schema = known.feature_schema.select(features=config.features, tasks=config.tasks)
        data = Data(
            datasets=(log / "impressions", labels_folder),
            log_schema=known.feature_schema,
            schema=schema,
            windows=known.windows,
            known_until=known.known_until,
            label_revision=known.label_revision,
            inputs={"events": events, "labels": labels} | ({"warm_start": warm_start} if warm_start else {}),
        )

        def train(start: Start | None) -> ModelManifest:
            return run_training(
                LabelLearner(RankingModel(schema, config.model)),
                data,
                config.training,
                folder=folder,
                name=config.name,
                snapshot_every=config.snapshot_every,
                start=start,
                on_window=on_window,
            )

        if warm_start is None:
            return train(None).write(folder)
        with reading(warm_start) as earlier:
            start = _checked(Start(earlier, ModelManifest.read(earlier)), config, schema, known.windows)
            return train(start).write(folder)


def _checked(start: Start, config: FoundationConfig, schema: Schema, windows: Sequence[Window]) -> Start:
    earlier = start.manifest
    if (earlier.name, earlier.model, earlier.feature_schema) != (config.name, config.model, schema):
        raise ConfigError(
            f"warm start: model {earlier.name!r} has other sizes, features or tasks than configured for "
            f"{config.name!r}; train from the first window, or restore its settings"
        )
    first = tuple(windows[: len(start.learned)])
    if first != start.learned:
        raise ConfigError(
            f"warm start: model {earlier.name!r} learned {_span(start.learned)}, but the log's first windows are "
            f"{_span(first)}; go on with a log that begins at the same time and has the same window_length, or train "
            "from the first window"
        )
    return start


def _span(windows: Sequence[Window]) -> str:
    return f"{len(windows)} from {windows[0].start} to {windows[-1].end}"
