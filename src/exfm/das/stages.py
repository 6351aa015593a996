"""The stages that need no model: ingest, label, join and remove. Each does what is due, and yields what it did."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from exfm.das.bounds import require_within_bounds
from exfm.das.closing import LogState, accounts, commit_labels, require_same_rules
from exfm.das.ingest import declare_complete, due_files, ingest_file, schema_change
from exfm.das.joining import due_examples, join_window
from exfm.das.log_tables import Das
from exfm.das.reporting import due_reports, report_window
from exfm.das.retention import remove_states, remove_windows
from exfm.das.shares import WHOLE, Share
from exfm.das.timeline import Timeline
from exfm.events.log import IMPRESSIONS
from exfm.events.source_files import is_finite, source_files
from exfm.events.sources import Source
from exfm.training.line import Line

POLL_S = 5.0
"""Between two looks for new files."""


@dataclass(frozen=True)
class Done:
    """An item that a run did."""

    stage: str
    item: str
    """A source file, or a window's start."""


def ingest(das: Das, source: Source, *, until: int | None = None) -> Iterator[Done]:
    """Ingest the source files that have arrived, in order; `until` (in ticks) says up to where the log is complete.

    Raises: DataError for a file that changed, came too late by its name, or has too many bad rows; StorageError if a
    store does not answer.
    """
    found = source_files(source)
    due, timeline, change, expected = [], Timeline(()), "", None
    while True:
        arrivals = das.arrivals().state()
        if arrivals.version != expected:  # the first look, or another process did something
            due, timeline = due_files(found, arrivals, das), das.timeline(arrivals)
            change = schema_change(arrivals, das)
        if not due:
            break
        file, *due = due
        arrival = ingest_file(file, source, das, timeline=timeline)
        if arrival is None:
            expected = None
            continue
        expected, timeline = arrivals.version + 1, timeline.after(arrival)
        if file.part == IMPRESSIONS and change:
            yield Done("schema", change)
            change = ""
        yield Done("ingest", f"{file.part} {file.name}")
    state = LogState.of(das)
    if until is None and is_finite(source) and state.impressions.files:
        times = state.impressions.read([max(state.impressions.files)], columns=[das.rules.time])
        until = int(times.to_series().to_physical().cast(pl.Int64).to_numpy().max()) + 1  # nothing will ever be added
    if until is not None and declare_complete(until, das, timeline=state.timeline):
        yield Done("ingest", f"complete until {das.time_text(until)}")


def wait_for_files(das: Das, source: Source) -> None:
    """Return once a source has a file that is not ingested.

    Raises: DataError as `ingest` does of files; StorageError if a store does not answer.
    """
    while not due_files(source_files(source), das.arrivals().state(), das):
        time.sleep(POLL_S)


def label(das: Das, share: Share = WHOLE) -> Iterator[Done]:
    """Label the windows that are closed.

    Raises: ConfigError if the label rules changed; StorageError if a store does not answer.
    """
    state = LogState.of(das)
    require_same_rules(state)
    for window in share.windows(state.due_labels()):
        if commit_labels(state, window):
            yield of_window(das, "label", window)


def join(das: Das, foundation_models: Sequence[str], share: Share = WHOLE) -> Iterator[Done]:
    """Join features, labels and pseudo-labels of windows that have all of them, and report what became of the rows.

    A share of the windows is only joined: a report compares a window with the one before it.

    Raises: DataError if an account does not balance, or the newest window that is done is out of bounds; StorageError
    if a store does not answer.
    """
    state = LogState.of(das)
    for window in share.windows(due_examples(state, foundation_models)):
        if join_window(state, window, foundation_models):
            yield of_window(das, "join", window)
    if share != WHOLE:
        return
    state = LogState.of(das)
    for window in due_reports(state):
        if report_window(state, window, foundation_models):
            yield of_window(das, "report", window)
    state = LogState.of(das)
    for account in accounts(state):
        account.require_balance()
    require_within_bounds(state)


def remove(das: Das, lines: Sequence[Line]) -> Iterator[Done]:
    """Remove the windows, and the states of models, that are not kept any more.

    A window stays until all these lines have learned it.

    Raises: StorageError if a store does not answer.
    """
    state = LogState.of(das)
    for window in remove_windows(state, lines):
        yield of_window(das, "remove", window)
    for folder in remove_states(state):
        yield Done("remove", folder.removeprefix(f"{das.root}/"))


def of_window(das: Das, stage: str, window: int) -> Done:
    """Return that a stage did a window."""
    return Done(stage, das.time_text(das.grid.window(window).start))
