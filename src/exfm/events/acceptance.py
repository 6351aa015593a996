"""The rows of a source file, sorted out: those that keep the schema's rules, and those that are rejected, and why.

Repeated keys and feedback that is earlier than its impression are no reasons: they show only beside other rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from exfm.errors import DataError
from exfm.events.rules import (
    FEEDBACK_VALUE,
    Rule,
    faults_of,
    feedback_columns,
    feedback_rules,
    impression_columns,
    impression_rules,
    select,
    with_values,
)
from exfm.events.times import event_times
from exfm.schema import Schema

ROW = "row"
"""Column that tells a row's place in its source file, from 0."""

REASONS_SHOWN = 5


@dataclass(frozen=True)
class SortedOut:
    """What became of a source file's rows."""

    accepted: pl.DataFrame
    """The schema's columns, event time in its one form (`exfm.events.times`), and ROW if the file's rows had it."""
    rejected: pl.DataFrame
    """ROW (the place among the rows if they had none), `key` (String), `time` (null if impossible), and `reason`,
    which begins with the column and has no values: equal faults have equal reasons."""


def sort_out_impressions(rows: pl.DataFrame, schema: Schema, *, of: str) -> SortedOut:
    """Return which impressions of a file are accepted, and which are rejected; `of` is what messages call the file.

    Raises: DataError if a column is missing or of a wrong type, which is the fault of the whole file.
    """
    return _sort_out(rows, schema, columns=impression_columns(schema), rules=impression_rules(schema), of=of)


def sort_out_feedback(rows: pl.DataFrame, schema: Schema, *, of: str) -> SortedOut:
    """Return the same of feedback, whose value is 1.0 if the file has none."""
    found = _sort_out(with_values(rows), schema, columns=feedback_columns(schema), rules=feedback_rules(schema), of=of)
    return SortedOut(found.accepted.with_columns(pl.col(FEEDBACK_VALUE).cast(pl.Float64)), found.rejected)


def too_many_rejected(counts: Mapping[str, int], *, num_rows: int, max_rejected: float, of: str) -> DataError:
    """Return the error of a file of `num_rows` rows of which more than a share `max_rejected` are rejected.

    `counts` has the rejected rows by reason.
    """
    num_rejected = sum(counts.values())
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:REASONS_SHOWN]
    reasons = [f"{count:,} rows, {reason}" for reason, count in most]
    if len(counts) > len(most):
        reasons.append(f"{len(counts) - len(most)} more reasons")
    return DataError(
        f"{of}: {num_rejected:,} of {num_rows:,} rows ({num_rejected / num_rows:.2%}) are rejected, max_rejected "
        f"allows {max_rejected:.2%}: {'; '.join(reasons)}. Correct the file or the schema (`exfm ingest check` tells "
        "more), or raise max_rejected"
    )


def _sort_out(
    rows: pl.DataFrame, schema: Schema, *, columns: Sequence[str], rules: Iterable[Rule], of: str
) -> SortedOut:
    chosen = select(rows, columns, of=of)
    faults = list(faults_of(chosen, rules, of=of))
    fault_of_row = np.full(rows.height, len(faults))
    for number, fault in reversed(list(enumerate(faults))):  # the first one counts
        fault_of_row[fault.rows_B] = number
    is_accepted = pl.Series(fault_of_row == len(faults), dtype=pl.Boolean)
    time = schema.event_time.column
    chosen = chosen.with_columns(event_times(chosen[time], schema.event_time).values)
    places = rows[ROW] if ROW in rows.columns else pl.int_range(rows.height, eager=True)
    rejected = pl.DataFrame(
        {
            ROW: places,
            "key": chosen[schema.impression_key].cast(pl.String),
            "time": chosen[time],
        }
    ).filter(~is_accepted)
    reasons = pl.Series("reason", [fault.reason for fault in faults], dtype=pl.String)
    return SortedOut(
        accepted=(chosen.with_columns(rows[ROW]) if ROW in rows.columns else chosen).filter(is_accepted),
        rejected=rejected.with_columns(reasons.gather(fault_of_row[fault_of_row < len(faults)])),
    )
