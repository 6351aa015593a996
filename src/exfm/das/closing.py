"""Closed windows: what is due, the labels of one, and the account of one. A window is closed once its labels are known.

What a window's labels and account are made from is decided by arrival alone: impressions that arrived up to the file
with which the window ended, feedback up to the file with which its attribution windows did.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from exfm.artifact.digests import digest_of_json
from exfm.das.accounts import Account, feedback_states
from exfm.das.attribution import ARRIVAL, ROW, Rules, make_labels, unique_impressions
from exfm.das.log_tables import PART, Das
from exfm.das.timeline import Timeline
from exfm.events.examples import label_column
from exfm.events.log import FEEDBACK, IMPRESSIONS
from exfm.events.rules import FEEDBACK_KIND, FEEDBACK_VALUE
from exfm.tables.commit import commit, stage
from exfm.tables.grid import WINDOW
from exfm.tables.table import TableState

RULES = "labels/rules"
"""What the table of labels says of the rules by which the newest of them were made: a number of their digest."""


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

    def complete_with(self, window: int) -> str | None:
        """Return the file with which a window's impressions were complete; None: they are not."""
        return self.timeline.passed(self.das.grid.window(window).end)

    def closed_with(self, window: int) -> str | None:
        """Return the file with which a window's labels were known; None: they are not."""
        return self.timeline.passed(self.das.grid.window(window).end + self.das.rules.longest)

    def due_labels(self) -> list[int]:
        """Return closed windows without labels, in order of time."""
        return self._closed(set(self.impressions.files) - set(self.labels.files))

    def due_reports(self) -> list[int]:
        """Return closed windows without an account, in order of time; their labels are there."""
        return self._closed((set(self.impressions.files) | set(self.feedback.files)) - set(self.report.files))

    def _closed(self, windows: Iterable[int]) -> list[int]:
        return [window for window in sorted(windows) if self.closed_with(window) is not None]

    def unique_impressions(self, window: int, *, with_late: bool = False) -> pl.DataFrame:
        """Return key, event time, WINDOW and arrival of a window's impressions, each once."""
        rules, near = self.das.rules, [window - 1, window]
        columns = [rules.key, rules.time, ARRIVAL, ROW, WINDOW]
        rows = self.impressions.read(near, columns=columns)
        if with_late:
            rows = pl.concat([rows, self.late_rows(IMPRESSIONS, near, columns=columns)])
        of_window = pl.col(WINDOW) == window
        return unique_impressions(rows.filter(of_window), before=rows.filter(~of_window), key=rules.key)

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


def rules_number(rules: Rules) -> int:
    """Return a number that stands for the rules of labels."""
    return int(digest_of_json([label.to_dict() for label in rules.schema.labels])[:15], 16)


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


def report_window(state: LogState, window: int) -> bool:
    """Commit the account of a closed window, whose labels are there; return whether this run did it."""
    das, until = state.das, state.closed_with(window)
    assert until is not None, f"window {window} is not closed"
    near = range(window - 2 * state.reach - 1, window + 1)
    columns = [das.rules.key, das.rules.time, WINDOW]
    before = state.labels.read(near, columns=columns)
    after = state.impressions.read([window + 1], columns=columns)  # feedback may be earlier than its impression
    feedback = state.feedback_of(range(window - state.reach, window + state.reach + 1), until=until)
    own_keys = feedback.filter(pl.col(WINDOW) == window).select(das.rules.key)
    feedback, before, after = (rows.join(own_keys, on=das.rules.key, how="semi") for rows in (feedback, before, after))
    impressions = pl.concat([before, after]).unique(das.rules.key, keep="first", maintain_order=True)
    known = {other: name for other in near if (name := state.closed_with(other)) is not None}
    states = feedback_states(feedback, impressions, das.rules, window=window, known=known)
    labels = state.labels.read([window], columns=[label_column(task) for task in das.schema.tasks()])
    row = {"examples": labels.height, "duplicates": state.num_duplicates(window)}
    row |= {f"feedback_{name}": count for name, count in states.items()}
    row |= {
        f"positives_{task}": int(labels[label_column(task)].sum()) if labels.height else 0
        for task in das.schema.tasks()
    }
    table = das.report()
    rows = pl.DataFrame([row], schema=dict(table.columns))
    inputs = {name: getattr(state, name).version for name in ("impressions", "feedback", "labels")}
    return commit(
        table, [stage(table, rows, window=window)], item=f"das_report/{window}", replaces=window, inputs=inputs
    )


def accounts(state: LogState) -> list[Account]:
    """Return what became of the rows of each window, in order of time, and of those without one.

    Reads small tables only.
    """
    arrived: dict[tuple[str, int], int] = {}
    for part, windows, counts in state.arrivals.read([0], columns=[PART, "windows", "counts"]).iter_rows():
        for window, count in zip(windows, counts, strict=True):
            arrived[part, window] = arrived.get((part, window), 0) + count
    late, rejected = (
        {
            (part, window): count
            for part, window, count in table.read(table.files, columns=[PART, WINDOW])
            .group_by(PART, WINDOW)
            .len()
            .iter_rows()
        }
        for table in (state.late, state.rejected)
    )
    reports = {row[WINDOW]: row for row in state.report.read(state.report.files).iter_rows(named=True)}
    found = []
    for part, table in ((IMPRESSIONS, state.impressions), (FEEDBACK, state.feedback)):
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
                    stored=table.num_rows([window]),
                    states=_states(reports.get(window), part),
                )
            )
    return found


def _states(report: dict[str, int] | None, part: str) -> dict[str, int] | None:
    if report is None:
        return None
    if part == IMPRESSIONS:
        return {name: report[name] for name in ("examples", "duplicates")}
    return {name.removeprefix("feedback_"): count for name, count in report.items() if name.startswith("feedback_")}
