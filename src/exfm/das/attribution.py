"""Attribution: which feedback is an impression's, and the labels that it gives.

Frames have the schema's impression key and event time (Datetime in microseconds, or Int64 steps), and where their rows
came from: `arrival` (source file) and `row`. Feedback has `kind` and `value` too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from exfm.events.examples import label_column
from exfm.events.rules import FEEDBACK_KIND as KIND
from exfm.events.rules import FEEDBACK_VALUE as VALUE
from exfm.schema import Label, Schema

ARRIVAL, ROW = "arrival", "row"
"""Columns: the name of the source file that a row came in, and its place there, from 0."""

AT = "row.at"
"""Column: the place of a row among those that were read, from 0."""

SHOWN = "shown"
DELAY = "delay"
STATE = "state"

FEEDBACK_STATES = ("attached", "superseded", "late", "expired", "early", "duplicate", "orphan", "other_kind")
"""What becomes of feedback: each row has exactly one of these."""


@dataclass(frozen=True)
class Rules:
    """The schema's labels, with times in ticks."""

    schema: Schema
    attribution: Mapping[str, int]
    """Attribution windows by label."""

    @property
    def key(self) -> str:
        """Return the column of the impression key."""
        return self.schema.impression_key

    @property
    def time(self) -> str:
        """Return the column of the event time."""
        return self.schema.event_time.column

    @property
    def longest(self) -> int:
        """Return the longest attribution window: then all labels of an impression are known."""
        return max(self.attribution.values())

    def longest_of(self, kind: str) -> int:
        """Return how long feedback of a kind may take."""
        return max(self.attribution[label.name] for label in self.schema.labels if label.feedback == kind)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of feedback that labels ask for."""
        return tuple(dict.fromkeys(label.feedback for label in self.schema.labels))


def unique_impressions(impressions: pl.DataFrame, *, before: pl.DataFrame, key: str) -> pl.DataFrame:
    """Return one row for each key, the first that arrived, without keys of the window before; in no order."""
    is_repeated = impressions[key].is_duplicated()
    repeated = impressions.filter(is_repeated).sort(ARRIVAL, ROW).unique(subset=key, keep="first")
    first = pl.concat([impressions.filter(~is_repeated), repeated])
    return first.filter(~first[key].is_in(before[key].implode()))


def located(chosen: pl.DataFrame, impressions: pl.DataFrame, *, key: str) -> pl.DataFrame:
    """Return the chosen impressions that are among those that were read, in the order of `chosen`, with AT.

    A column of many rows takes less time by its place than by a join, a filter or a sort.
    """
    places = impressions.select(key, ARRIVAL, ROW, pl.int_range(pl.len(), dtype=pl.get_index_type()).alias(AT))
    is_that_row = (pl.col(ARRIVAL) == pl.col(f"{ARRIVAL}_right")) & (pl.col(ROW) == pl.col(f"{ROW}_right"))
    found = chosen.join(places, on=key, how="left", maintain_order="left").filter(is_that_row)
    return found.drop(f"{ARRIVAL}_right", f"{ROW}_right")


def make_labels(impressions: pl.DataFrame, feedback: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """Return each impression's key, event time, ARRIVAL, ROW and `label.<task>` (0 or 1), in order of time, then key.

    `impressions` are one window's, unique; `feedback` is all that was known when its labels were closed.
    """
    key, time = rules.key, rules.time
    matched = with_delay(unique_feedback(feedback, rules), impressions, rules).filter(pl.col(DELAY) >= 0)
    labels = impressions.select(key, time, ARRIVAL, ROW).sort(time, key)
    for label in rules.schema.labels:
        counted = matched.filter(
            (pl.col(KIND) == label.feedback) & (pl.col(DELAY) <= rules.attribution[label.name])
        ).sort(DELAY, ARRIVAL, ROW)
        values = counted.group_by(key).agg(_reduced(label).alias("reduced"))
        positive = (pl.col("reduced") >= label.positive_from).fill_null(value=False).cast(pl.Int8)
        labels = (
            labels.join(values, on=key, how="left", maintain_order="left")
            .with_columns(positive.alias(label_column(label.name)))
            .drop("reduced")
        )
    return labels


def unique_feedback(feedback: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """Return feedback without exact repetitions, of which the first that arrived is kept; in no order."""
    same = [rules.key, rules.time, KIND, VALUE]
    is_repeated = feedback.select(pl.struct(same).is_duplicated()).to_series()
    repeated = feedback.filter(is_repeated).sort(ARRIVAL, ROW).unique(subset=same, keep="first")
    return pl.concat([feedback.filter(~is_repeated), repeated])


def with_delay(feedback: pl.DataFrame, impressions: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """Return feedback with `delay`, in ticks after its impression; null where there is no such impression."""
    shown = impressions.select(rules.key, pl.col(rules.time).to_physical().alias(SHOWN))
    return feedback.join(shown, on=rules.key, how="left", maintain_order="left").with_columns(
        (pl.col(rules.time).to_physical() - pl.col(SHOWN)).alias(DELAY)
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
