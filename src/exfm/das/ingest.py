"""Ingest: one source file's rows into tables, once. A file that was ingested must never change."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from exfm.das.attribution import ARRIVAL, ROW
from exfm.das.column_types import conform
from exfm.das.log_tables import FILE, PART, Das
from exfm.das.timeline import Arrival, Timeline, watermark_after
from exfm.errors import DataError
from exfm.events.acceptance import SortedOut, sort_out_feedback, sort_out_impressions, too_many_rejected
from exfm.events.log import FEEDBACK, IMPRESSIONS
from exfm.events.rules import impression_columns
from exfm.events.source_files import SourceFile, slices
from exfm.events.sources import Source
from exfm.tables.commit import StagedFile, commit, stage
from exfm.tables.grid import NO_WINDOW, WINDOW
from exfm.tables.table import Table, TableState

QUANTILE = 0.999
"""Of a file's event times, up to which the log is complete: single wrong clocks close nothing."""


@dataclass
class _Counts:
    """What a file held."""

    num_rows: int = 0
    num_rejected: int = 0
    num_late: int = 0
    num_unshown: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    windows: dict[int, int] = field(default_factory=dict)
    """Rows by window; impossible times in NO_WINDOW."""
    unshown: dict[int, int] = field(default_factory=dict)
    """Of these, impressions that were not shown."""
    times: list[pl.Series] = field(default_factory=list)
    """Of accepted impressions, in ticks."""


def _add(rows: pl.DataFrame, windows: dict[int, int]) -> None:
    for window, count in rows.group_by(WINDOW).len().iter_rows():
        windows[window] = windows.get(window, 0) + count


def due_files(found: Sequence[SourceFile], arrivals: TableState, das: Das) -> list[SourceFile]:
    """Return the files that are not ingested, in order of arrival.

    Raises: DataError if a file that was ingested changed since, or if a new one comes before it by name.
    """
    done: dict[tuple[str, str], int] = {
        (part, name): size for part, name, size in arrivals.read([0], columns=[PART, "name", "size_bytes"]).iter_rows()
    }
    last = das.timeline(arrivals).last
    due = []
    for file in found:
        size = done.get((file.part, file.name))
        if size is None:
            if last is not None and Arrival(file.name, file.part, 0).order < last.order:
                raise DataError(
                    f"{file.part}: {file.uri} is new, but its name comes before {last.name!r}, which was ingested; "
                    "files arrive in the order of their names, feedback before impressions of the same name: give new "
                    "files names that come after, in both folders alike, such as 2026-01-31.parquet"
                )
            due.append(file)
        elif size != file.size_bytes and file.uri == file.name:
            raise DataError(
                f"source {file.name}: its settings changed since it was ingested; restore them, or name another root"
            )
        elif size != file.size_bytes:
            raise DataError(
                f"{file.part}: {file.uri} had {size} bytes when it was ingested, and has {file.size_bytes} now; write "
                "new rows to a new file, and restore this one"
            )
    return due


def schema_change(arrivals: TableState, das: Das) -> str:
    """Return how the schema's columns differ from those of the last file of impressions; empty: they do not."""
    files = arrivals.read([0], columns=["name", PART, "columns"]).filter(pl.col(PART) == IMPRESSIONS).sort("name")
    before, now = set() if files.is_empty() else set(files["columns"][-1]), set(impression_columns(das.schema))
    if not before or before == now:
        return ""
    told = {"new, and null in rows before": now - before, "no longer read": before - now}
    return "; ".join(f"{', '.join(sorted(columns))}: {what}" for what, columns in told.items() if columns)


def ingest_file(file: SourceFile, source: Source, das: Das, *, timeline: Timeline) -> Arrival | None:
    """Put a file's rows into `impressions` or `feedback`, `late` and `rejected`; return its arrival.

    Impressions that were not shown are counted only.

    None: another process did it.

    Raises: DataError if a column is missing or of another type than before, or too many rows are rejected: nothing of
    the file is then there.
    """
    counts, staged = _Counts(), _Staged(das, file)
    for rows in slices(file, source, schema=das.schema):
        found = _sorted_out(rows, file, das)
        accepted, rejected = conform(found.accepted, staged.known, of=f"{file.part} in {file.uri}"), found.rejected
        counts.num_rows += rows.height
        counts.num_rejected += rejected.height
        for reason, count in rejected.group_by("reason").len().iter_rows():
            counts.reasons[reason] = counts.reasons.get(reason, 0) + count
        accepted = accepted.with_columns(das.grid.index_of(pl.col(das.rules.time)), pl.lit(file.name).alias(ARRIVAL))
        rejected = rejected.with_columns(
            das.grid.index_of(pl.col("time")).fill_null(NO_WINDOW),
            pl.lit(file.name).alias(ARRIVAL),
            pl.lit(file.part).alias(PART),
        )
        if file.part == IMPRESSIONS:
            counts.times.append(accepted[das.rules.time].to_physical())
        for part in (accepted, rejected):
            _add(part, counts.windows)
        if file.part == IMPRESSIONS and das.schema.shown:
            is_shown = accepted[das.schema.shown].fill_null(value=False)
            _add(accepted.filter(~is_shown), counts.unshown)
            counts.num_unshown += accepted.height - int(is_shown.sum())
            accepted = accepted.filter(is_shown).drop(das.schema.shown)
        is_late = _is_closed(file, das, timeline)
        late = accepted.filter(is_late)
        counts.num_late += late.height
        staged.add(accepted.filter(~is_late), late.with_columns(pl.lit(file.part).alias(PART)), rejected)
    if counts.num_rejected > das.config.max_rejected * counts.num_rows:
        of, bound = f"{file.part} in {file.uri}", das.config.max_rejected
        raise too_many_rejected(counts.reasons, num_rows=counts.num_rows, max_rejected=bound, of=of)
    row = _arrival(file, counts, das, timeline)
    return Arrival(file.name, file.part, row["watermark"]) if staged.commit(row) else None


def _sorted_out(rows: pl.DataFrame, file: SourceFile, das: Das) -> SortedOut:
    sort_out = sort_out_impressions if file.part == IMPRESSIONS else sort_out_feedback
    return sort_out(rows, das.schema, of=f"{file.part} in {file.uri}")


def _is_closed(file: SourceFile, das: Das, timeline: Timeline) -> pl.Expr:
    """Return which rows' windows were closed before the file arrived."""
    if timeline.watermark is None:
        return pl.lit(value=False)
    delay = 0 if file.part == IMPRESSIONS else das.rules.longest
    return (pl.col(WINDOW) + 1) * das.grid.length + delay <= timeline.watermark


def _arrival(file: SourceFile, counts: _Counts, das: Das, timeline: Timeline) -> dict[str, Any]:
    quantile = None
    if counts.times:
        found = pl.concat(counts.times).quantile(QUANTILE, interpolation="lower")
        quantile = None if found is None else int(found)
    windows = dict(sorted(counts.windows.items()))
    return {
        "name": file.name,
        PART: file.part,
        FILE: file.uri,
        "size_bytes": file.size_bytes,
        "watermark": watermark_after(
            timeline.watermark, quantile, allowed_lateness=das.ticks(das.config.allowed_lateness)
        ),
        "num_rows": counts.num_rows,
        "num_rejected": counts.num_rejected,
        "num_late": counts.num_late,
        "num_unshown": counts.num_unshown,
        "windows": list(windows),
        "counts": list(windows.values()),
        "unshown": [counts.unshown.get(window, 0) for window in windows],
        "columns": list(impression_columns(das.schema)) if file.part == IMPRESSIONS else [],
    }


class _Staged:
    """Files of one source file's rows, written but not yet committed."""

    def __init__(self, das: Das, file: SourceFile) -> None:
        self._das, self._file = das, file
        self._tables: dict[str, Table] = {}
        self._before = {part: das.table(part, {}).state().columns for part in (IMPRESSIONS, FEEDBACK)}
        keys = [(das.rules.key, columns[das.rules.key]) for columns in self._before.values() if columns]
        self.known = pl.Schema(dict(keys) | dict(self._before[file.part]))
        """Columns of the part's table, and the key; of a table that is not there yet none."""
        self._files: dict[str, list[StagedFile]] = {"rejected": [], "late": [], file.part: []}

    def add(self, accepted: pl.DataFrame, late: pl.DataFrame, rejected: pl.DataFrame) -> None:
        if not self._tables:
            self._tables = self._tables_for(accepted)
        for name, rows in (("rejected", rejected), ("late", late), (self._file.part, accepted)):
            table = self._tables[name]
            missing = [
                pl.lit(None, dtype=dtype).alias(column)
                for column, dtype in table.columns.items()
                if column not in rows.columns
            ]
            for (window,), part in sorted(rows.with_columns(missing).group_by(WINDOW, maintain_order=True)):
                assert isinstance(window, int)
                of = "" if name == self._file.part else self._file.part  # accounts count files by it
                self._files[name].append(stage(table, part, window=window, part=of))

    def commit(self, arrival: dict[str, Any]) -> bool:
        """Commit all; the table of arrivals comes last, which makes the file done."""
        item = f"ingest/{self._file.part}/{self._file.name}"
        for name, files in self._files.items():
            if files or name == self._file.part:  # the part's table is there, even if no row of it was shown yet
                commit(self._tables[name], files, item=item)
        arrivals = self._das.arrivals()
        rows = pl.DataFrame([arrival], schema=dict(arrivals.columns))
        return commit(arrivals, [stage(arrivals, rows, window=0)], item=item, marks=self._das.lengths)

    def _tables_for(self, accepted: pl.DataFrame) -> dict[str, Table]:
        """Return the tables, whose columns have the types of the rows."""
        das, key = self._das, self._das.rules.key
        own = {name: dtype for name, dtype in accepted.schema.items() if name not in (WINDOW, ARRIVAL, ROW)}
        if self._file.part == IMPRESSIONS:
            impressions = das.impressions(own)
        else:
            impressions = das.impressions(self._before[IMPRESSIONS])
        parts = {"impressions": impressions, "feedback": das.feedback(accepted.schema[key])}
        return {"rejected": das.rejected(), "late": das.late(impressions), self._file.part: parts[self._file.part]}


def declare_complete(until: int, das: Das, *, timeline: Timeline) -> bool:
    """Record that the log is complete up to a time, in ticks; return whether this moved the watermark."""
    last = timeline.last
    if last is None or timeline.watermark is None or timeline.watermark >= until:  # no impression is there, or enough
        return False
    arrivals = das.arrivals()
    row = {"name": last.name, PART: "until", FILE: "", "size_bytes": 0, "watermark": until} | dict.fromkeys(
        ("num_rows", "num_rejected", "num_late", "num_unshown"), 0
    )
    rows = pl.DataFrame(
        [row | {"windows": [], "counts": [], "unshown": [], "columns": []}], schema=dict(arrivals.columns)
    )
    return commit(arrivals, [stage(arrivals, rows, window=0)], item=f"until/{until}", marks=das.lengths)
