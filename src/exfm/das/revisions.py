"""Revisions: windows that were done are done again with what is known now, under a higher number.

A model that learned a window does not learn it again; revisions serve evaluation and retraining.
"""

from collections.abc import Iterator

import polars as pl

from exfm.das.closing import RULES, LogState, commit_labels, feedback_figure, rules_number
from exfm.das.log_tables import FIGURE, FM, PART, SNAPSHOT, VALUE, Das
from exfm.das.scoring import Teacher, score_window
from exfm.events.log import FEEDBACK, IMPRESSIONS
from exfm.tables.commit import commit
from exfm.tables.grid import WINDOW


def relabel(das: Das) -> Iterator[int]:
    """Label closed windows again with feedback and impressions that came late, and yield those that changed.

    If the schema's labels changed, all windows are labelled again.
    """
    state = LogState.of(das)
    has_new_rules = state.labels.revision(RULES) != rules_number(das.rules)
    labelled = sorted(state.labels.files)
    windows = set(labelled) if has_new_rules else _windows_of_late_rows(state)
    for window in labelled:
        if window in windows and commit_labels(state, window, again=True):
            yield window
    if has_new_rules and labelled:  # only now: until then, a run that was killed is to be gone on with
        table = das.table("labels", state.labels.columns)
        commit(table, [], item=f"relabel/{state.labels.version}", marks={RULES: rules_number(das.rules)})


def rescore(das: Das, fm: str, teacher: Teacher) -> Iterator[int]:
    """Score windows that went without a foundation model by a snapshot that may score them, and yield them."""
    state = LogState.of(das)
    for window in sorted(state.pseudo_labels.files):
        if teacher.snapshot_for(window, das) is None:
            continue
        scored = state.pseudo_labels.read([window], columns=[FM, SNAPSHOT]).filter(pl.col(FM) == fm)
        if scored[SNAPSHOT].has_nulls() and score_window(state, window, fm, teacher, again=True):
            yield window


def _windows_of_late_rows(state: LogState) -> set[int]:
    """Return the windows whose labels late rows may change."""
    late = state.late.read(state.late.files, columns=[PART, WINDOW]).unique()
    late_impressions = set(late.filter(pl.col(PART) == IMPRESSIONS)[WINDOW])
    late_feedback = set(late.filter(pl.col(PART) == FEEDBACK)[WINDOW])
    reported = state.report.read(state.report.files, columns=[WINDOW, FIGURE, VALUE])
    late_feedback |= set(reported.filter((pl.col(FIGURE) == feedback_figure("late")) & (pl.col(VALUE) > 0))[WINDOW])
    before = {window - back for window in late_feedback for back in range(state.reach + 1)}
    return late_impressions | before
