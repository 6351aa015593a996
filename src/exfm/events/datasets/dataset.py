"""What an adapter says of a data set: its files, and what they are in a log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module

import polars as pl

from exfm.events.csv_files import CsvLayout

KEY, TIME, DOMAIN = "impression_id", "event_time", "domain"
"""Columns of a log. The key is the number of a row, through all files of the data set, from 0."""

ROW_NUMBERS = pl.col(KEY)
"""Ordinal event time of data sets that have no time."""


@dataclass(frozen=True)
class Outcome:
    """A kind of feedback."""

    given: pl.Expr
    """Which rows have it."""
    time: pl.Expr | None = None
    """When it came, in the unit of the data set's time; None: the file does not tell, so it has its impression's."""


@dataclass(frozen=True)
class Lookup:
    """A file that describes users or items, one a row. It stays in memory."""

    file: str
    layout: CsvLayout
    key: str
    """Its column that rows of the data set name."""
    of: str
    """The data set's column that names it."""


@dataclass(frozen=True)
class Behaviours:
    """A file of what users did, of which an impression gets the last that its user did before it."""

    file: str
    """It may be missing; the sequences are then empty."""
    layout: CsvLayout
    user: str
    time: str
    """Its columns with the user and the time, in the unit of the data set's time."""
    of: str
    """The data set's column with the user."""
    sequences: Mapping[str, pl.Expr]
    """Features that are made: whole numbers, the oldest first."""
    max_length: int


@dataclass(frozen=True)
class DataSet:
    """A published data set, or a part of one whose files have columns of their own."""

    title: str
    """What it is, in words."""
    files: Sequence[str]
    """Files of impressions, in the order in which they are read."""
    layout: CsvLayout
    feedback: Mapping[str, Outcome]
    """Each kind of feedback."""
    left_out: Sequence[str]
    """Columns that no impression has: what was known only later."""
    time: pl.Expr = ROW_NUMBERS
    """Event time: seconds, a timestamp, or row numbers."""
    domain: pl.Expr = field(default_factory=lambda: pl.lit("all"))
    derived: Mapping[str, pl.Expr] = field(default_factory=dict)
    """Features that are made of columns, also of lookups'; a column of the same name is replaced."""
    lookups: Sequence[Lookup] = ()
    behaviours: Behaviours | None = None
    notes: Sequence[str] = ()
    """Sentences that a report must repeat."""

    @property
    def has_time(self) -> bool:
        """Return whether the files tell when rows were, or only their order."""
        return self.time is not ROW_NUMBERS

    @property
    def has_delays(self) -> bool:
        """Return whether the files tell when feedback came."""
        return any(outcome.time is not None for outcome in self.feedback.values())


def data_set(name: str) -> tuple[DataSet, ...]:
    """Return the data set of a name in NAMES: its parts, which become one log."""
    found = import_module(f"exfm.events.datasets.{name}").DATA
    return (found,) if isinstance(found, DataSet) else tuple(found)
