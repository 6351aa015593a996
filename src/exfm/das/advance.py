"""Work = what is due - what is done: a first replay, a daily run and the run after a crash are one code path."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exfm.das.closing import LogState, accounts, label_window, report_window
from exfm.das.ingest import declare_complete, due_files, ingest_file
from exfm.das.log_tables import Das
from exfm.events.source_files import source_files
from exfm.events.sources import Source


@dataclass(frozen=True)
class Done:
    """An item that a run did."""

    stage: str
    item: str
    """A source file, or a window's start."""


def advance(das: Das, source: Source, *, until: int | None = None) -> Iterator[Done]:
    """Do whatever is due, in order of time, and yield each item that this run did; run again, it does nothing.

    `until` (in ticks) says that the log is complete up to there.

    Raises: DataError for a file that changed, came too late by its name, or has too many bad rows, and if an account
    does not balance; StorageError if a store does not answer.
    """
    for file in due_files(source_files(source), das.arrivals().state(), das):
        if ingest_file(file, source, das, timeline=das.timeline(das.arrivals().state())):
            yield Done("ingest", f"{file.part} {file.name}")
    if until is not None:
        declare_complete(until, das, timeline=das.timeline(das.arrivals().state()))
    for stage, due, work in _STAGES:
        state = LogState.of(das)
        for window in due(state):
            if work(state, window):
                yield Done(stage, str(window))
    for account in accounts(LogState.of(das)):
        account.require_balance()


_STAGES: tuple[tuple[str, Callable[[LogState], list[int]], Callable[[LogState, int], bool]], ...] = (
    ("label", LogState.due_labels, label_window),
    ("report", LogState.due_reports, report_window),
)
"""Name, what is due, and what does one window of it."""
