"""Labels: each impression's feedback within its attribution window, reduced to one value.

Output: for each window a partition with the impression key and `label.<task>`: 0 or 1, null while the attribution
window was not over at the end of the log.
"""

from pathlib import Path

import polars as pl

from exfm.artifact.digests import digest_of_json, digests_of_folder
from exfm.artifact.output import writing
from exfm.artifact.storage import Ref, reading
from exfm.errors import DataError
from exfm.events.examples import label_column
from exfm.events.labels import FeedbackCounts, LabelsManifest
from exfm.events.log import FEEDBACK, IMPRESSIONS, EventLogManifest
from exfm.events.partitions import read_partition, write_partition
from exfm.events.rules import FEEDBACK_KIND as KIND
from exfm.events.rules import FEEDBACK_VALUE as VALUE
from exfm.schema import Label, Schema


def make_labels(events: Ref, *, out: str) -> LabelsManifest:
    """Write the labels of an event log; return their manifest.

    Raises: DataError if no feedback is of the kind that a label asks for.
    """
    with reading(events) as log, writing(out) as folder:
        manifest = EventLogManifest.read(log)
        schema, windows = manifest.feature_schema, manifest.windows
        columns = [schema.impression_key, schema.event_time.column]  # features stay on disk
        impressions = pl.concat([read_partition(log / IMPRESSIONS, window, columns=columns) for window in windows])
        feedback = pl.concat([read_partition(log / FEEDBACK, window) for window in windows])
        _require_kinds(feedback, schema)
        matched, counts = match_feedback(impressions, feedback, schema)
        labels = reduce_labels(impressions, matched, schema, known_until=manifest.known_until)
        for window in windows:
            time = pl.col(schema.event_time.column)
            part = labels.filter((time >= window.start) & (time < window.end)).drop(schema.event_time.column)
            write_partition(part, folder, window)
        return LabelsManifest(
            windows=windows,
            label_revision=_revision(folder, schema),
            inputs={"events": events},
            feature_schema=schema,
            known_until=manifest.known_until,
            feedback=counts,
            num_impressions=len(labels),
            num_immature=labels.select(pl.any_horizontal(pl.col("^label\\..*$").is_null()).sum()).item(),
        ).write(folder)


def match_feedback(
    impressions: pl.DataFrame, feedback: pl.DataFrame, schema: Schema
) -> tuple[pl.DataFrame, FeedbackCounts]:
    """Return the feedback that counts, with its `delay` after its impression, and what became of the rest."""
    key, time = schema.impression_key, schema.event_time.column
    unique = feedback.unique(subset=[key, time, KIND, VALUE], maintain_order=True)
    joined = unique.join(
        impressions.select(key, pl.col(time).alias("shown")), on=key, how="left", maintain_order="left"
    ).with_columns((pl.col(time) - pl.col("shown")).alias("delay"))
    longest = {
        label.feedback: max(other.attribution_window for other in schema.labels if other.feedback == label.feedback)
        for label in schema.labels
    }
    limit = pl.col(KIND).replace_strict(longest, default=None, return_dtype=pl.Int64)
    state = (
        pl.when(pl.col("delay").is_null()).then(pl.lit("orphan"))
        .when(limit.is_null()).then(pl.lit("other_kinds"))
        .when(pl.col("delay") > limit).then(pl.lit("late"))
        .otherwise(pl.lit("used"))
    )  # fmt: skip
    joined = joined.with_columns(state.alias("state"))
    sizes = dict(joined.group_by("state").len().iter_rows())
    counts = {name: sizes.get(name, 0) for name in ("orphan", "other_kinds", "late", "used")}
    return (
        joined.filter(pl.col("state") == "used"),
        FeedbackCounts(total=len(feedback), duplicate=len(feedback) - len(unique), **counts),
    )


def reduce_labels(
    impressions: pl.DataFrame, matched: pl.DataFrame, schema: Schema, *, known_until: int
) -> pl.DataFrame:
    """Return each impression with its event time and labels; `matched` is as `match_feedback` returns it."""
    key, time = schema.impression_key, schema.event_time.column
    labels = impressions.select(key, time)
    for label in schema.labels:
        counted = matched.filter((pl.col(KIND) == label.feedback) & (pl.col("delay") <= label.attribution_window))
        values = counted.sort("delay", maintain_order=True).group_by(key).agg(_reduced(label).alias("reduced"))
        positive = (pl.col("reduced") >= label.positive_from).fill_null(value=False).cast(pl.Int8)
        mature = pl.col(time) + label.attribution_window < known_until
        labels = (
            labels.join(values, on=key, how="left", maintain_order="left")
            .with_columns(pl.when(mature).then(positive).alias(label_column(label.name)))
            .drop("reduced")
        )
    return labels


def _revision(folder: Path, schema: Schema) -> str:
    """Return the digest of the rules and of what came of them: equal revisions mean equal labels."""
    files = {name: digest.sha256 for name, digest in digests_of_folder(folder).items()}
    return digest_of_json({"rules": [label.to_dict() for label in schema.labels], "labels": files})


def _require_kinds(feedback: pl.DataFrame, schema: Schema) -> None:
    kinds = set(feedback[KIND].unique())
    for label in schema.labels:
        if label.feedback not in kinds:
            raise DataError(
                f"label {label.name!r}: no feedback is of kind {label.feedback!r}; the log's kinds are "
                f"{', '.join(sorted(kinds)) or '(none)'}: correct the schema, or leave the label out"
            )


def _reduced(label: Label) -> pl.Expr:
    value = pl.col(VALUE)
    match label.reduction:
        case "any":
            return pl.lit(1.0)
        case "max":
            return value.max()
        case "min":
            return value.min()
        case "last":
            return value.last()
        case "sum":
            return value.sum()
