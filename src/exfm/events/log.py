"""A log of events before it is checked: impressions and feedback."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

IMPRESSIONS, FEEDBACK = "impressions", "feedback"
"""The two parts of a log."""


@dataclass(frozen=True)
class RawLog:
    """A data set's impressions and feedback, not yet checked against a schema."""

    impressions: pl.DataFrame
    feedback: pl.DataFrame
    source: str
    """What the events are, in words."""
    notes: tuple[str, ...]
    """Sentences that a report on these events must repeat."""
    names: Mapping[str, pl.DataFrame]
    """Names of each id feature's ids: columns `id` and `name`."""
