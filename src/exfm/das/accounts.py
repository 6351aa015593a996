"""Accounts: what became of each row of a window. What came in is what was kept, and what was not, by cause."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from exfm.das.attribution import (
    ARRIVAL,
    DELAY,
    FEEDBACK_STATES,
    ROW,
    SHOWN,
    STATE,
    Rules,
    unique_feedback,
    with_delay,
)
from exfm.errors import DataError
from exfm.events.rules import FEEDBACK_KIND as KIND
from exfm.events.rules import FEEDBACK_VALUE as VALUE
from exfm.schema import Label
from exfm.tables.grid import WINDOW

_KNOWN = "known"
"""Column: the name of the file with which an impression's labels were closed."""


@dataclass(frozen=True)
class Account:
    """Rows of one window of one part of a log, by what became of them."""

    part: str
    window: int
    arrived: int
    """Rows that source files had."""
    rejected: int
    late: int
    """Arrived after the window was closed: kept in table `late`."""
    unshown: int
    """Impressions that were ranked, but not shown: in the source files only."""
    stored: int
    """In the part's own table."""
    is_removed: bool
    """Whether its stored rows were removed, once it was done (`keep_windows`)."""
    states: Mapping[str, int] | None
    """Of the rows that are or were stored; None: pending, because the window is not done."""

    @property
    def pending(self) -> int:
        """Return the stored rows of a window that is not done."""
        return self.stored if self.states is None else 0

    @property
    def removed(self) -> int:
        """Return the rows that were stored until the window was removed."""
        return sum((self.states or {}).values()) if self.is_removed else 0

    def require_balance(self) -> None:
        """Return if each row that arrived is in one place, and each stored row has one state.

        Raises: DataError, which says what is missing or there twice.
        """
        stored = self.stored + self.removed
        if (found := self.rejected + self.late + self.unshown + stored) != self.arrived:
            raise DataError(
                f"{self.part} of window {self.window}: {self.arrived} rows arrived, but {found} are there "
                f"({self.stored} stored, {self.removed} removed, {self.late} late, {self.rejected} rejected, "
                f"{self.unshown} not shown); a file of a table is missing or there twice: restore the tables, or begin "
                "with an empty root"
            )
        if self.states is not None and sum(self.states.values()) != stored:
            states = ", ".join(f"{count} {state}" for state, count in self.states.items())
            raise DataError(
                f"{self.part} of window {self.window}: {stored} rows are stored, but the window was closed with "
                f"{sum(self.states.values())} ({states}); the table changed since: restore it"
            )


def feedback_states(
    feedback: pl.DataFrame, impressions: pl.DataFrame, rules: Rules, *, window: int, known: Mapping[int, str]
) -> dict[str, int]:
    """Return how many rows of one window of feedback are in each state.

    `feedback` has those of the windows before and after that may share an impression. `impressions` (unique, with
    WINDOW) are those that this window's feedback may be of. `known` is, by window, the file with which the labels of
    its impressions were closed.
    """
    closed = pl.DataFrame(
        {WINDOW: list(known), _KNOWN: list(known.values())}, schema={WINDOW: pl.Int64, _KNOWN: pl.String}
    )
    shown = impressions.join(closed, on=WINDOW, how="left", maintain_order="left")
    rows = with_delay(feedback, impressions, rules).join(
        shown.select(rules.key, _KNOWN), on=rules.key, how="left", maintain_order="left"
    )
    first = unique_feedback(feedback, rules).select(ARRIVAL, ROW, pl.lit(value=True).alias("first"))
    rows = rows.join(first, on=[ARRIVAL, ROW], how="left", maintain_order="left")
    limit = pl.col(KIND).replace_strict(
        {kind: rules.longest_of(kind) for kind in rules.kinds}, default=None, return_dtype=pl.Int64
    )
    rows = rows.with_columns(
        pl.when(pl.col("first").is_null()).then(pl.lit("duplicate"))
        .when(limit.is_null()).then(pl.lit("other_kind"))
        .when(pl.col(SHOWN).is_null()).then(pl.lit("orphan"))
        .when(pl.col(DELAY) < 0).then(pl.lit("early"))
        .when(pl.col(DELAY) > limit).then(pl.lit("expired"))
        .when(pl.col(ARRIVAL) > pl.col(_KNOWN)).then(pl.lit("late"))
        .otherwise(pl.lit(None, dtype=pl.String))
        .alias(STATE)
    )  # fmt: skip
    in_time = rows.filter(pl.col(STATE).is_null())
    deciding = pl.concat([_deciding(in_time, label, rules) for label in rules.schema.labels]).unique()
    counted = (
        rows.filter(pl.col(WINDOW) == window)
        .join(deciding.with_columns(pl.lit("attached").alias("deciding")), on=[ARRIVAL, ROW], how="left")
        .with_columns(pl.coalesce(STATE, "deciding", pl.lit("superseded")).alias(STATE))
    )
    sizes = dict(counted.group_by(STATE).len().iter_rows())
    return {state: sizes.get(state, 0) for state in FEEDBACK_STATES}


def _deciding(in_time: pl.DataFrame, label: Label, rules: Rules) -> pl.DataFrame:
    """Return ARRIVAL and ROW of the feedback that a label's values come from."""
    counted = in_time.filter((pl.col(KIND) == label.feedback) & (pl.col(DELAY) <= rules.attribution[label.name]))
    if label.reduction != "sum":
        by_value = {"max": [-pl.col(VALUE)], "min": [pl.col(VALUE)]}.get(label.reduction, [])
        counted = counted.sort(*by_value, DELAY, ARRIVAL, ROW).unique(
            rules.key, keep="last" if label.reduction == "last" else "first", maintain_order=True
        )
    return counted.select(ARRIVAL, ROW)
