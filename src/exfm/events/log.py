"""The event log: impressions and feedback as Parquet, each in the window of its own event time.

manifest.json                             EventLogManifest
impressions/window=00003/part-0.parquet   the schema's columns
feedback/window=00003/part-0.parquet      impression key, event time, `kind` (string), `value` (float64)
names/<feature>.parquet                   `id` and `name`: what to show a person instead of an id
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from exfm.artifact.manifest import Manifest, Window
from exfm.errors import ConfigError, DataError
from exfm.events.partitions import read_parquet, write_partition
from exfm.events.validation import checked_feedback, checked_impressions, checked_names
from exfm.schema import Schema, WrittenSchema

IMPRESSIONS, FEEDBACK = "impressions", "feedback"
"""The folders of a log's two datasets, whose windows `read_partition` reads, in order of event time."""

MAX_WINDOWS = 10_000
"""More are refused: a time in another unit than the rest would need millions."""


@dataclass(frozen=True)
class RawLog:
    """A source's impressions and feedback, not yet checked against a schema."""

    impressions: pl.DataFrame
    feedback: pl.DataFrame
    source: str
    """What the events are, in words."""
    notes: tuple[str, ...]
    """Sentences that a report on these events must repeat."""
    names: Mapping[str, pl.DataFrame]
    """Names of each id feature's ids: columns `id` and `name`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files that IMPRESSIONS and FEEDBACK were read from; empty: the events were generated."""

    def called(self, part: str) -> str:
        """Return what messages call IMPRESSIONS or FEEDBACK."""
        return f"{part} in {self.files[part]}" if part in self.files else part


class EventLogManifest(Manifest):
    """What an event log says of itself."""

    kind: Literal["events"] = "events"
    feature_schema: WrittenSchema
    source: str
    """What the events are, in words."""
    notes: tuple[str, ...]
    """Sentences that a report on these events must repeat."""
    num_impressions: int
    num_feedback: int
    known_until: int
    """Just after the last event: what happened later is not in the log; in event time."""
    names: dict[str, str]
    """Parquet file in the folder with each id feature's names: columns `id` and `name`."""

    def headline(self) -> str:
        """Return one line about this stage's output."""
        return (
            f"{self.num_impressions:,} impressions and {self.num_feedback:,} feedbacks in {len(self.windows)} windows"
        )


def write_event_log(log: RawLog, *, schema: Schema, window_length: int, folder: Path) -> EventLogManifest:
    """Return the manifest of the log that this writes, cut into consecutive windows.

    `window_length` is in the schema's time unit. Window 0 starts with the first impression; windows go on until the
    last event, so the last ones may hold feedback only. Feedback from before the first impression (of an impression
    that the log lacks) goes into window 0. Rows are in order of event time, then of key. Columns that the schema does
    not name are left out. Nothing is written before all rows are checked, and the manifest comes last.

    Raises: ConfigError if `window_length` is less than 1; DataError if rows break a rule of the schema, or if there
    would be more than MAX_WINDOWS windows.
    """
    if window_length < 1:
        raise ConfigError(f"window_length is {window_length}; give at least 1, in the unit of the event time")
    impressions = checked_impressions(log.impressions, schema, of=log.called(IMPRESSIONS))
    feedback = checked_feedback(log.feedback, impressions=impressions, schema=schema, of=log.called(FEEDBACK))
    names = checked_names(log.names, schema)
    key, time = schema.impression_key, schema.event_time.column
    impressions = impressions.sort(time, key, maintain_order=True)
    feedback = feedback.sort(time, key, "kind", maintain_order=True)

    windows = _windows(impressions[time], feedback[time], length=window_length)
    for part, rows in ((IMPRESSIONS, impressions), (FEEDBACK, feedback)):
        for window, rows_of_window in _split(rows, time=time, windows=windows):
            write_partition(rows_of_window, folder / part, window)
    for feature, table in names.items():
        path = folder / _names_path(feature)
        path.parent.mkdir(exist_ok=True)
        table.write_parquet(path)
    return EventLogManifest(
        windows=windows,
        feature_schema=schema,
        source=log.source,
        notes=log.notes,
        num_impressions=impressions.height,
        num_feedback=feedback.height,
        known_until=int(pl.concat([rows[time] for rows in (impressions, feedback)]).cast(pl.Int64).to_numpy().max())
        + 1,
        names={feature: _names_path(feature) for feature in names},
    ).write(folder)


def read_names(folder: Path, manifest: EventLogManifest, feature: str) -> dict[Any, str]:
    """Return an id feature's names by id; empty if the log has none for it.

    Raises: StorageError if the file is missing or damaged.
    """
    if feature not in manifest.names:
        return {}
    table = read_parquet(folder / manifest.names[feature])
    return dict(zip(table["id"], table["name"], strict=True))


def _windows(impression_times: pl.Series, feedback_times: pl.Series, *, length: int) -> tuple[Window, ...]:
    first = int(impression_times[0])
    last_impression = int(impression_times[-1])
    last_feedback = int(feedback_times[-1]) if len(feedback_times) else first
    count = (max(last_impression, last_feedback) - first) // length + 1
    if count > MAX_WINDOWS:
        raise DataError(
            f"{count} windows of {length} lie between the first impression ({first}), the last one ({last_impression}) "
            f"and the last feedback ({last_feedback}), at most {MAX_WINDOWS} are allowed; use longer windows, or check "
            "that all times have the same unit"
        )
    starts = [first + index * length for index in range(count + 1)]
    return tuple(Window(index=index, start=start, end=end) for index, (start, end) in enumerate(pairwise(starts)))


def _split(rows: pl.DataFrame, *, time: str, windows: tuple[Window, ...]) -> Iterator[tuple[Window, pl.DataFrame]]:
    ends = np.searchsorted(rows[time].to_numpy(), [window.end for window in windows], side="left").tolist()
    for window, (start, end) in zip(windows, pairwise([0, *ends]), strict=True):
        yield window, rows.slice(start, end - start)


def _names_path(feature: str) -> str:
    return f"names/{feature}.parquet"
