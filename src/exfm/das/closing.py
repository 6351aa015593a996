"""Closed windows: what is due, the labels of one, and the account of one. A window is closed once its labels are known.

What a window's labels and account are made from is decided by arrival alone: impressions that arrived up to the file
with which the window ended, feedback up to the file with which its attribution windows did.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from exfm.artifact.digests import digest_of_json
from exfm.das.accounts import Account
from exfm.das.attribution import ARRIVAL, FEEDBACK_STATES, ROW, Rules, make_labels, unique_impressions
from exfm.das.log_tables import FIGURE, PART, VALUE, Das
from exfm.das.timeline import Timeline
from exfm.errors import ConfigError
from exfm.events.log import FEEDBACK, IMPRESSIONS
from exfm.events.rules import FEEDBACK_KIND, FEEDBACK_VALUE, impression_columns
from exfm.tables.commit import commit, stage
from exfm.tables.grid import NO_WINDOW, WINDOW
from exfm.tables.table import TableState

RULES = "labels/rules"
"""What the table of labels says of the rules by which the newest of them were made: a number of their digest."""

REMOVED = "removed"
"""What a table says of the newest window that was removed from it: how far it is after NO_WINDOW."""

IMPRESSION_STATES = ("examples", "duplicates")
"""What becomes of impressions: each row of a closed window has exactly one of these. They are figures of its report."""


def feedback_figure(state: str) -> str:
    """Return the figure of a report that counts feedback of one state."""
    return f"{FEEDBACK}_{state}"


@dataclass(frozen=True)
class LogState:
    """The tables of a log, at one version each."""

    das: Das
    timeline: Timeline
    arrivals: TableState
    impressions: TableState
    feedback: TableState
    late: TableState
    rejected: TableState
    labels: TableState
    pseudo_labels: TableState
    examples: TableState
    snapshots: TableState
    predictions: TableState
    report: TableState

    @classmethod
    def of(cls, das: Das) -> "LogState":
        """Return the newest versions; the table of arrivals first, so that the others have what it says."""
        arrivals = das.arrivals().state()
        impressions = das.table("impressions", das.impressions({}).columns).state()
        key_type = impressions.columns.get(das.rules.key, pl.Int64())
        return cls(
            das=das,
            timeline=das.timeline(arrivals),
            arrivals=arrivals,
            impressions=impressions,
            feedback=das.feedback(key_type).state(),
            late=das.late(das.impressions(impressions.columns)).state(),
            rejected=das.rejected().state(),
            labels=das.labels(key_type).state(),
            pseudo_labels=das.pseudo_labels(key_type).state(),
            examples=das.examples(impressions.columns, ()).state(),
            snapshots=das.snapshots().state(),
            predictions=das.predictions(key_type).state(),
            report=das.report().state(),
        )

    @cached_property
    def windows(self) -> list[int]:
        """Return the windows with impressions that were not removed, in order of time."""
        removed = removed_until(self.labels)
        return [window for window in sorted(self.impressions.files) if window > removed]

    @cached_property
    def file_counts(self) -> pl.DataFrame:
        """Return how many rows each source file had, and how many were late, rejected or not shown."""
        counts = ["num_rows", "num_late", "num_rejected", "num_unshown"]
        return self.arrivals.read([0], columns=["name", PART, *counts])

    @property
    def impression_columns(self) -> dict[str, pl.DataType]:
        """Return the types of the columns of `impressions` that are read: one that left the schema is not."""
        read = {*impression_columns(self.das.schema), ARRIVAL, ROW}
        return {name: dtype for name, dtype in self.impressions.columns.items() if name in read}

    def complete_with(self, window: int) -> str | None:
        """Return the file with which a window's impressions were complete; None: they are not."""
        return self.timeline.passed(self.das.grid.window(window).end)

    def closed_with(self, window: int) -> str | None:
        """Return the file with which a window's labels were known; None: they are not."""
        return self.timeline.passed(self.das.grid.window(window).end + self.das.rules.longest)

    def due_labels(self) -> list[int]:
        """Return closed windows without labels, in order of time."""
        return self.closed(set(self.windows) - set(self.labels.files))

    def due_scores(self, fm: str) -> list[int]:
        """Return complete windows without pseudo-labels of a foundation model, in order of time."""
        return [
            window
            for window in self.windows
            if self.complete_with(window) is not None and not self.pseudo_labels.newest_revision(window, part=fm)
        ]

    def closed(self, windows: Iterable[int]) -> list[int]:
        """Return those windows that are closed, in order of time."""
        return [window for window in sorted(windows) if self.closed_with(window) is not None]

    def unique_impressions(self, window: int, *, with_late: bool = False) -> pl.DataFrame:
        """Return key, event time, WINDOW and arrival of a window's impressions, each once."""
        rules = self.das.rules

        def arrived(of: int, columns: list[str]) -> pl.DataFrame:
            rows = self.impressions.read([of], columns=columns)
            return pl.concat([rows, self.late_rows(IMPRESSIONS, [of], columns=columns)]) if with_late else rows

        own = arrived(window, [rules.key, rules.time, ARRIVAL, ROW, WINDOW])
        return unique_impressions(own, before=arrived(window - 1, [rules.key]), key=rules.key)

    def num_duplicates(self, window: int) -> int:
        """Return how many rows of a window repeat a key, of the window itself or of the one before it."""
        key = self.das.rules.key
        keys = self.impressions.read([window - 1, window], columns=[key, WINDOW])
        of_window = pl.col(WINDOW) == window
        own, before = keys.filter(of_window), keys.filter(~of_window)
        is_repeated = own[key].is_in(before[key].implode()) | ~own[key].is_first_distinct()
        return int(is_repeated.sum())

    def feedback_of(self, windows: Iterable[int], *, until: str | None) -> pl.DataFrame:
        """Return the feedback of windows that had arrived with a file; None: all, also late."""
        rules, near = self.das.rules, list(windows)
        columns = [rules.key, rules.time, FEEDBACK_KIND, FEEDBACK_VALUE, ARRIVAL, ROW, WINDOW]
        rows = self.feedback.read(near, columns=columns)
        if until is None:
            return pl.concat([rows, self.late_rows(FEEDBACK, near, columns=columns)])
        return rows.filter(pl.col(ARRIVAL) <= until)

    def late_rows(self, part: str, windows: Iterable[int], *, columns: Sequence[str]) -> pl.DataFrame:
        """Return rows of windows that arrived after these were closed."""
        return self.late.read(windows, columns=[PART, *columns]).filter(pl.col(PART) == part).drop(PART)

    @property
    def reach(self) -> int:
        """Return how many windows after its own an impression's feedback may come."""
        return self.das.grid.num_windows(self.das.rules.longest)


def removed_until(table: TableState, mark: str = REMOVED) -> int:
    """Return the newest window that was removed from a table, as a mark of it says; NO_WINDOW: none was."""
    return table.revision(mark) + NO_WINDOW


def states_of(part: str) -> str:
    """Return the mark in `snapshots` that says which states of a line, by its part of a window, are not kept."""
    return f"states/{part}"


def rules_number(rules: Rules) -> int:
    """Return a number that stands for the rules of labels."""
    return int(digest_of_json([label.to_dict() for label in rules.schema.labels])[:15], 16)


def require_same_rules(state: LogState) -> None:
    """Return if labels were made by the schema's rules.

    Raises: ConfigError if they were made by others.
    """
    if state.labels.files and state.labels.revision(RULES) != rules_number(state.das.rules):
        raise ConfigError(
            f"the schema's labels changed since {len(state.labels.files)} windows were labelled; run `exfm das "
            "relabel` to label all of them again, as a new revision, or restore the labels' settings"
        )


def labels_of(state: LogState, window: int, *, until: str | None) -> pl.DataFrame:
    """Return a window's labels as they are known with a source file; None: with all that arrived, also late."""
    impressions = state.unique_impressions(window, with_late=until is None)
    feedback = state.feedback_of(range(window, window + state.reach + 1), until=until)
    return make_labels(impressions, feedback, state.das.rules)


def commit_labels(state: LogState, window: int, *, again: bool = False) -> bool:
    """Commit the labels of a closed window; return whether this run did it.

    With `again` they are made from all that has arrived by now, also late, as a new revision if they differ.
    """
    das, until = state.das, None if again else state.closed_with(window)
    assert again or until is not None, f"window {window} is not closed"
    labels = labels_of(state, window, until=until)
    table = das.labels(labels.schema[das.rules.key])
    inputs = {"impressions": state.impressions.version, "feedback": state.feedback.version}
    revision = 1
    if again:
        before = state.labels.read([window], columns=list(table.columns))
        if before.equals(labels):
            return False
        revision += state.labels.newest_revision(window)
        inputs["late"] = state.late.version
    return commit(
        table,
        [stage(table, labels, window=window, revision=revision)],
        item=f"labels/{window}",
        revision=revision,
        replaces=window,
        inputs=inputs,
        marks={} if again else {RULES: rules_number(das.rules)},
    )


def accounts(state: LogState) -> list[Account]:
    """Return what became of the rows of each window, in order of time, and of those without one.

    Reads small tables only.
    """
    arrived, unshown = (_counted(state, name) for name in ("counts", "unshown"))
    late, rejected = (_rows_by_place(table) for table in (state.late, state.rejected))
    states = _states(state)
    found = []
    for part, table in ((IMPRESSIONS, state.impressions), (FEEDBACK, state.feedback)):
        removed = removed_until(table)
        windows = {window for of, window in [*arrived, *late, *rejected] if of == part} | set(table.files)
        for window in sorted(windows):
            place = (part, window)
            found.append(
                Account(
                    part=part,
                    window=window,
                    arrived=arrived.get(place, 0),
                    rejected=rejected.get(place, 0),
                    late=late.get(place, 0),
                    unshown=unshown.get(place, 0),
                    stored=table.num_rows([window]),
                    is_removed=window <= removed,
                    states=states.get(place),
                )
            )
    return found


def _rows_by_place(table: TableState) -> Counter[tuple[str, int]]:
    """Return the number of rows by part and window, as the names of files say them: no file is read."""
    found: Counter[tuple[str, int]] = Counter()
    for file in (file for files in table.files.values() for file in files):
        found[file.part, file.window] += file.num_rows
    return found


def _counted(state: LogState, column: str) -> dict[tuple[str, int], int]:
    """Return what a column of `arrivals` counts, by part and window."""
    counts = state.arrivals.read([0], columns=[PART, "windows", column]).explode("windows", column).drop_nulls()
    rows = counts.group_by(PART, "windows").agg(pl.sum(column))
    return {(part, window): count for part, window, count in rows.iter_rows()}


def _states(state: LogState) -> dict[tuple[str, int], dict[str, int]]:
    """Return what became of the rows of windows that are done, by part and window."""
    figures: dict[str, tuple[str, str]] = {name: (IMPRESSIONS, name) for name in IMPRESSION_STATES}
    figures |= {feedback_figure(name): (FEEDBACK, name) for name in FEEDBACK_STATES}
    found: dict[tuple[str, int], dict[str, int]] = {}
    for window, figure, value in state.report.read(state.report.files, columns=[WINDOW, FIGURE, VALUE]).iter_rows():
        if figure in figures:
            part, name = figures[figure]
            found.setdefault((part, window), {})[name] = int(value)
    return found
