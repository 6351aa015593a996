"""The tables of a data augmentation system, below a run's root.

impressions   rows as they arrived, in the window of their event time
feedback      likewise, by the feedback's own time
late          rows that arrived after their window was closed
rejected      rows that break a rule of the schema, with file, row and reason
arrivals      a row for each source file: it is ingested; its watermark
labels        each impression once, with its labels; there is a file for each window that is closed
pseudo_labels each complete impression once for each foundation model, with its probabilities
examples      features, labels and pseudo-labels of each impression of a closed window, sorted by domain
snapshots     a row for each state of a model
predictions   what each model said of each of its examples before it learned it; a part of a window for each model
das_report    figures of each window that is done: what became of its rows, and how its examples look
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import polars as pl

from exfm.artifact.stores import join
from exfm.das.attribution import ARRIVAL, ROW, Rules
from exfm.das.config import DasConfig
from exfm.das.timeline import Arrival, Timeline
from exfm.errors import ConfigError, SchemaError
from exfm.events.examples import label_column
from exfm.events.rules import FEEDBACK_KIND, FEEDBACK_VALUE
from exfm.schema import Schema, pseudo_age_column, pseudo_label_column, pseudo_snapshot_column
from exfm.tables.grid import WINDOW, WindowGrid
from exfm.tables.table import OnStep, Table, TableState
from exfm.training.manifest import prediction_columns

TICKS_PER_SECOND = 1_000_000
"""Event time is in microseconds; ordinal time in its own steps."""

MIN_SECONDS_DIGITS = 9
"""A number of fewer digits is a date, such as 20260131. Nine digits of seconds begin in 1973."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

PART, FILE, TIME, KEY, REASON = "part", "file", "time", "key", "reason"
"""Columns of `rejected` and `late`."""

LOG_COLUMNS = {WINDOW, ARRIVAL, ROW, PART, FEEDBACK_KIND, FEEDBACK_VALUE}
"""Columns that tables have beside those of impressions."""

FM, SNAPSHOT, AGE = "fm", "snapshot", "age"
"""Columns of `pseudo_labels`: the foundation model, the version that scored a row (null: none), and the event time
between what it last knew and the impression, in the schema's unit."""

VERSION = "version"
"""Column of `predictions`: the state that scored a row; null: the model had learned nothing."""

SCORE_COLUMNS = {FM, SNAPSHOT, AGE, "model", "line", VERSION}
"""Columns that `pseudo_labels` and `predictions` have beside those of examples and tasks."""

FIGURE, OF, VALUE = "figure", "of", "value"
"""Columns of `das_report`; OF is a task, a foundation model, <foundation model>.<task>, a part of the log, or a column;
empty: the window."""


@dataclass(frozen=True)
class Das:
    """A run's data augmentation system: its rules, and where its tables are."""

    root: str
    schema: Schema
    window_length: int
    """In the schema's time unit: seconds, or steps."""
    config: DasConfig = field(default_factory=DasConfig)
    on_step: OnStep = field(default=lambda step: None, compare=False)

    def __post_init__(self) -> None:
        """Check that the schema's names are not those of the tables' own columns, and that engines can read the root.

        Raises: SchemaError or ConfigError if not.
        """
        schema = self.schema
        clashes = LOG_COLUMNS & {*schema.context_columns(), *schema.feature_names(), schema.shown}
        clashes |= SCORE_COLUMNS & {schema.impression_key, schema.domain, *schema.tasks()}
        if clashes:
            raise SchemaError(
                f"columns or labels {', '.join(sorted(clashes))} of the schema have names of the tables' own columns; "
                "rename them"
            )
        if "=" in self.root:
            raise ConfigError(
                f"root {self.root!r} has a '=', by which readers of Parquet take a folder for a partition; name "
                "another root"
            )

    @property
    def rules(self) -> Rules:
        """Return the rules of attribution."""
        return Rules(self.schema, {label.name: self.ticks(label.attribution_window) for label in self.schema.labels})

    @property
    def grid(self) -> WindowGrid:
        """Return the windows."""
        return WindowGrid(self.ticks(self.window_length))

    def ticks(self, time: int) -> int:
        """Return a time of settings, in seconds or steps, in ticks."""
        return time * TICKS_PER_SECOND if self.schema.event_time.kind == "absolute" else time

    def time_text(self, ticks: int) -> str:
        """Return a time as people write it: a date with time of day, or steps of ordinal time."""
        if self.schema.event_time.kind == "ordinal":
            return str(ticks)
        return (_EPOCH + timedelta(microseconds=ticks)).isoformat().replace("+00:00", "Z")

    def span_text(self, ticks: int) -> str:
        """Return a span of event time as people write it."""
        return f"{ticks:,} steps" if self.schema.event_time.kind == "ordinal" else str(timedelta(microseconds=ticks))

    def time_of(self, text: str) -> int:
        """Return the ticks of a time that a person wrote: a date, with or without time of day, or seconds or steps.

        Raises: ConfigError if it is none.
        """
        is_ordinal = self.schema.event_time.kind == "ordinal"
        digits = text.lstrip("-")
        if digits.isdecimal() and (is_ordinal or len(digits) >= MIN_SECONDS_DIGITS):
            return self.ticks(int(text))
        try:
            if is_ordinal:
                raise ValueError(f"{text!r} is no number")
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            expected = "steps, such as 5000" if is_ordinal else "a date, such as 2026-01-31T06:00 (UTC), or seconds"
            raise ConfigError(f"time {text!r}: {error}; give {expected}") from error
        return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)

    @property
    def time_type(self) -> pl.DataType:
        """Return the type of event time in tables."""
        return pl.Datetime("us", "UTC") if self.schema.event_time.kind == "absolute" else pl.Int64()

    def table(self, name: str, columns: Mapping[str, pl.DataType]) -> Table:
        """Return a table by name."""
        return Table(join(self.root, "tables", name), columns, self.on_step)

    def arrivals(self) -> Table:
        """Return the table of ingested source files."""
        counts = pl.List(pl.Int64())
        return self.table(
            "arrivals",
            {
                "name": pl.String(), PART: pl.String(), FILE: pl.String(), "size_bytes": pl.Int64(),
                "watermark": pl.Int64(), "num_rows": pl.Int64(), "num_rejected": pl.Int64(), "num_late": pl.Int64(),
                "num_unshown": pl.Int64(), "windows": counts, "counts": counts, "unshown": counts,
                "columns": pl.List(pl.String()),
            },
        )  # fmt: skip

    def impressions(self, columns: Mapping[str, pl.DataType]) -> Table:
        """Return the table of impressions, whose features have these types."""
        return self.table("impressions", {**columns, ARRIVAL: pl.String(), ROW: pl.Int64()})

    def feedback(self, key_type: pl.DataType) -> Table:
        """Return the table of feedback."""
        columns = {self.schema.impression_key: key_type, self.schema.event_time.column: self.time_type}
        kinds = {FEEDBACK_KIND: pl.String(), FEEDBACK_VALUE: pl.Float64()}
        return self.table("feedback", columns | kinds | {ARRIVAL: pl.String(), ROW: pl.Int64()})

    def late(self, impressions: Table) -> Table:
        """Return the table of late rows: of impressions, and of feedback with only its own columns."""
        own = {PART: pl.String(), FEEDBACK_KIND: pl.String(), FEEDBACK_VALUE: pl.Float64()}
        return self.table("late", dict(impressions.columns) | own)

    def rejected(self) -> Table:
        """Return the table of rejected rows."""
        return self.table(
            "rejected",
            {
                PART: pl.String(), ARRIVAL: pl.String(), ROW: pl.Int64(), KEY: pl.String(), TIME: self.time_type,
                REASON: pl.String(),
            },
        )  # fmt: skip

    def labels(self, key_type: pl.DataType) -> Table:
        """Return the table of labels, which says by ARRIVAL and ROW which row of `impressions` counts for a key."""
        columns = {self.schema.impression_key: key_type, self.schema.event_time.column: self.time_type}
        columns |= {ARRIVAL: pl.String(), ROW: pl.Int64()}
        return self.table("labels", columns | {label_column(task): pl.Int8() for task in self.schema.tasks()})

    def pseudo_labels(self, key_type: pl.DataType) -> Table:
        """Return the table of pseudo-labels: a column for each task of the schema, null where it is not taught."""
        columns = {self.schema.impression_key: key_type, "fm": pl.String(), "snapshot": pl.String(), "age": pl.Int64()}
        return self.table("pseudo_labels", columns | {task: pl.Float32() for task in self.schema.tasks()})

    def examples(self, impressions: Mapping[str, pl.DataType], foundation_models: Sequence[str]) -> Table:
        """Return the table of examples: impressions with labels, and pseudo-labels of these foundation models."""
        columns = {name: dtype for name, dtype in impressions.items() if name not in (ARRIVAL, ROW)}
        columns |= {label_column(task): pl.Int8() for task in self.schema.tasks()}
        for fm in foundation_models:
            columns |= {pseudo_label_column(fm, task): pl.Float32() for task in self.schema.tasks()}
            columns |= {pseudo_snapshot_column(fm): pl.String(), pseudo_age_column(fm): pl.Int64()}
        return self.table("examples", columns)

    def snapshots(self) -> Table:
        """Return the table of models' states, each in the window that it learned last."""
        names = ("model", "line", "version", "parent", "folder", "digest", "inputs", "ids", "teacher_weights")
        return self.table("snapshots", {name: pl.String() for name in names} | {"known_until": pl.Int64()})

    def predictions(self, key_type: pl.DataType) -> Table:
        """Return the table of what models, and their reference lines, said of examples before they learned them."""
        columns = {self.schema.impression_key: key_type, self.schema.domain: pl.String()}
        columns |= {name: pl.String() for name in ("model", "line", VERSION)}
        return self.table("predictions", columns | prediction_columns(self.schema.tasks()))

    def report(self) -> Table:
        """Return the table of each window's figures."""
        return self.table("das_report", {FIGURE: pl.String(), OF: pl.String(), VALUE: pl.Float64()})

    @property
    def lengths(self) -> dict[str, int]:
        """Return the settings that decide which window a row is in and when a window is closed, in ticks."""
        return {"window_length": self.grid.length, "longest attribution_window": self.rules.longest}

    def timeline(self, arrivals: TableState) -> Timeline:
        """Return what has arrived.

        Raises: ConfigError if it arrived with other `lengths`.
        """
        for setting, length in self.lengths.items() if arrivals.files else ():
            if (found := arrivals.revision(setting)) != length:
                raise ConfigError(
                    f"{self.root}: the tables were made with a {setting} of {found // self.ticks(1)}, the settings "
                    f"have {length // self.ticks(1)}; restore it, or name another root, where all windows are made "
                    "anew"
                )
        rows = arrivals.read([0], columns=["name", PART, "watermark"])
        return Timeline(Arrival(name, part, watermark) for name, part, watermark in rows.iter_rows())
