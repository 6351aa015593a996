"""What a model learns from: its slice of the examples."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from exfm.artifact.manifest import Window
from exfm.events.examples import Examples, ExampleTable, examples_of, label_column
from exfm.schema import Schema, pseudo_age_column, pseudo_label_column


@dataclass(frozen=True)
class Data:
    """A model's domains, columns and teachers in a table of examples."""

    examples: ExampleTable
    schema: Schema
    """The part of the log's schema that the model uses."""
    domains: Sequence[str] = ()
    """Empty: all."""
    teachers: Sequence[str] = ()
    """Foundation models whose pseudo-labels are read; empty: none."""

    @property
    def log_schema(self) -> Schema:
        """Return the log's schema."""
        return self.examples.schema

    @property
    def windows(self) -> Sequence[Window]:
        """Return the windows that have examples, in order of time."""
        return self.examples.windows

    @property
    def label_delay(self) -> int:
        """Return how long after a window's end all labels of the log are known, in event time."""
        return max(label.attribution_window for label in self.log_schema.labels)

    @property
    def known_until(self) -> int:
        """Return when the last labels were known, in event time: all windows of the table can be learned."""
        return self.windows[-1].end + self.label_delay

    @property
    def columns(self) -> list[str]:
        """Return the columns that the model reads."""
        tasks = self.schema.tasks()
        names = [*sorted(self.schema.context_columns()), *self.schema.feature_names(), *map(label_column, tasks)]
        for teacher in self.teachers:
            names += [*(pseudo_label_column(teacher, task) for task in tasks), pseudo_age_column(teacher)]
        return list(dict.fromkeys(names))

    def frame(self, window: Window) -> pl.DataFrame:
        """Return one window's rows, in order of event time.

        Raises: StorageError if a file is missing or damaged, or the store does not answer.
        """
        return self.examples.read(window, domains=self.domains, columns=self.columns)

    def read(self, window: Window) -> Examples:
        """Return one window's examples.

        Raises: as `frame` does; DataError for unusable examples.
        """
        return examples_of(self.frame(window), self.schema, teachers=self.teachers)
