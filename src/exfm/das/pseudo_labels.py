"""Pseudo-labels: each impression scored once by a foundation model that could have existed when it was shown.

Output: for each window a partition with the impression key and, for foundation model <fm>, `pseudo.<fm>.<task>` (a
probability, null where no snapshot was old enough), `pseudo_snapshot.<fm>` (its version) and `pseudo_age.<fm>`
(event time between what the snapshot last knew and the impression).
"""

import polars as pl

from exfm.artifact.output import writing
from exfm.artifact.storage import Ref, reading
from exfm.events.labels import PseudoLabelsManifest
from exfm.events.log import IMPRESSIONS
from exfm.events.partitions import read_partition, write_partition
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.models.ranking import RankingModel
from exfm.schema import pseudo_age_column, pseudo_label_column, pseudo_snapshot_column
from exfm.training.checkpoint import load_weights
from exfm.training.manifest import ModelManifest, Snapshot
from exfm.training.run import OnWindow


def make_pseudo_labels(
    *,
    events: Ref,
    foundation: Ref,
    out: str,
    on_window: OnWindow = lambda num_done, num_windows: None,
) -> PseudoLabelsManifest:
    """Score every impression of a log; return their manifest.

    Raises: StorageError if the foundation model was not trained on `events`.
    """
    with reading(events) as log, reading(foundation) as model_folder, writing(out) as folder:
        model = ModelManifest.read(model_folder)
        model.require_made_from(events=events)
        teacher = RankingModel(model.feature_schema, model.model)
        loaded: Snapshot | None = None
        snapshots: dict[int, str] = {}
        counts = {True: 0, False: 0}
        for num_done, window in enumerate(model.windows, 1):
            impressions = read_partition(log / IMPRESSIONS, window)
            snapshot = model.snapshot_for(window.start)
            if snapshot is not None and snapshot != loaded:
                load_weights(teacher, model_folder / snapshot.folder)
                loaded = snapshot
            if snapshot is not None and len(impressions):
                snapshots[window.index] = snapshot.version
            counts[snapshot is not None] += len(impressions)
            write_partition(_scored(impressions, teacher, snapshot, model), folder, window)
            on_window(num_done, len(model.windows))
        return PseudoLabelsManifest(
            windows=model.windows,
            inputs={"events": events, "foundation": foundation},
            fm=model.name,
            tasks=model.feature_schema.tasks(),
            snapshots=snapshots,
            num_scored=counts[True],
            num_unscored=counts[False],
        ).write(folder)


def _scored(
    impressions: pl.DataFrame, teacher: RankingModel, snapshot: Snapshot | None, model: ModelManifest
) -> pl.DataFrame:
    schema = model.feature_schema
    scores = impressions.select(schema.impression_key, schema.event_time.column)
    columns = [pseudo_label_column(model.name, label.name) for label in schema.labels]
    if snapshot is None:
        probabilities = [pl.lit(None, dtype=pl.Float32).alias(column) for column in columns]
        version, age = pl.lit(None, dtype=pl.String), pl.lit(None, dtype=pl.Int64)
    else:
        probabilities_BT = teacher.probabilities(encode_examples(raw_columns(impressions.to_arrow(), schema), schema))
        probabilities = [pl.lit(pl.Series(column, probabilities_BT[:, t])) for t, column in enumerate(columns)]
        version, age = pl.lit(snapshot.version), pl.col(schema.event_time.column) - snapshot.known_until
    return scores.with_columns(
        *probabilities, version.alias(pseudo_snapshot_column(model.name)), age.alias(pseudo_age_column(model.name))
    ).drop(schema.event_time.column)
