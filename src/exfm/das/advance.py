"""Work = what is due - what is done: a first replay, a daily run and the run after a crash are one code path."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from exfm.das.bounds import require_within_bounds
from exfm.das.closing import LogState, accounts, commit_labels
from exfm.das.ingest import declare_complete, due_files, ingest_file, schema_change
from exfm.das.joining import due_examples, join_window
from exfm.das.learning import FoundationWorker, LineWorker, VerticalWorker
from exfm.das.log_tables import Das
from exfm.das.reporting import due_reports, report_window
from exfm.das.retention import remove_windows
from exfm.das.revisions import require_same_rules
from exfm.das.scoring import FoundationModel, due_scores, is_waiting, score_window, teaching
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


def advance(
    das: Das,
    source: Source,
    *,
    foundation_models: Mapping[str, FoundationModel],
    vertical_models: Sequence[Line] = (),
    until: int | None = None,
) -> Iterator[Done]:
    """Do whatever is due, in order of time, and yield each item that this run did; run again, it does nothing.

    `until` (in ticks) says that the log is complete up to there.

    Raises: DataError for a file that changed, came too late by its name, or has too many bad rows, if an account does
    not balance, or the newest window that is done is out of bounds; ConfigError if a foundation model does not fit the
    log; StorageError if a store does not answer.
    """
    yield from _ingest(das, source, until=until)
    state = LogState.of(das)
    require_same_rules(state)
    for window in state.due_labels():
        if commit_labels(state, window):
            yield _window(das, "label", window)
    for fm, model in foundation_models.items():
        state = LogState.of(das)
        if isinstance(model, Line):
            yield from _models(das, FoundationWorker(state, model), predicting="pseudo-label", learning="train-fm")
            continue
        with teaching(model, state) as teacher:
            for window in due_scores(state, fm):
                if not is_waiting(state, window, teacher) and score_window(state, window, fm, teacher):
                    yield _window(das, f"pseudo-label {fm}", window)
    state = LogState.of(das)
    for window in due_examples(state, list(foundation_models)):
        if join_window(state, window, list(foundation_models)):
            yield _window(das, "join", window)
    for line in vertical_models:
        worker = VerticalWorker(LogState.of(das), line)
        yield from _models(das, worker, predicting="predict", learning="train-vm")
    state = LogState.of(das)
    for window in due_reports(state):
        if report_window(state, window, list(foundation_models)):
            yield _window(das, "report", window)
    state = LogState.of(das)
    for account in accounts(state):
        account.require_balance()
    require_within_bounds(state)
    for window in remove_windows(state):
        yield _window(das, "remove", window)


def follow(work: Callable[[], Iterator[Done]]) -> Iterator[Done]:
    """Do what is due over and over, as files and snapshots come; it never ends."""
    while True:
        yield from work()
        time.sleep(POLL_S)


def _models(das: Das, worker: LineWorker, *, predicting: str, learning: str) -> Iterator[Done]:
    for did, window in worker.advance():
        yield _window(das, f"{predicting if did == 'predict' else learning} {worker.line.name}", window)


def _window(das: Das, stage: str, window: int) -> Done:
    return Done(stage, das.time_text(das.grid.window(window).start))


def _ingest(das: Das, source: Source, *, until: int | None) -> Iterator[Done]:
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
