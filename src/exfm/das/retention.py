"""Retention: windows, and states of models, that nothing needs any more are removed, each once.

A window is in all tables of rows or in none, so whatever is there can be labelled, scored and verified again. What is
small stays, because accounts and models read it: `arrivals`, `late`, `rejected`, `das_report` and rows of `snapshots`.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import takewhile

from exfm.artifact.stores import join, list_folders, remove_tree
from exfm.das.closing import REMOVED, LogState, removed_until, states_of
from exfm.das.log_tables import Das
from exfm.events.log import FEEDBACK, IMPRESSIONS
from exfm.tables.commit import commit
from exfm.tables.grid import NO_WINDOW, WINDOW
from exfm.tables.table import TableState
from exfm.tables.vacuum import vacuum
from exfm.training.line import Line

OTHERS = ("labels", FEEDBACK, "pseudo_labels", "examples", "predictions")
"""Tables of rows besides `impressions`, in this order: if a run is stopped between two, nothing becomes due again, and
no label is there whose feedback is not."""

KEEP_VERSIONS_S = 7 * 86_400
"""For which a removed file stays, for readers of the versions that have it."""


def first_kept(state: LogState, lines: Sequence[Line]) -> int | None:
    """Return the first window that is kept; None: all are.

    It is one of the newest `keep_windows` that have examples and a report and that these lines have learned, as all
    windows before them; or it is earlier, if a window that is not done needs its rows.
    """
    das, keep = state.das, state.das.config.keep_windows
    reported = sorted(set(state.report.files) & set(state.examples.files))
    done = list(takewhile(lambda window: all(_has_learned(state, line, window) for line in lines), reported))
    watermark = state.timeline.watermark
    if not keep or len(done) <= keep or watermark is None:
        return None
    open_windows = (set(state.windows) | set(state.feedback.files)) - set(state.report.files)
    first_open = min(open_windows | {das.grid.index_at(watermark - das.rules.longest)})
    return min(done[-keep], first_open - 2 * state.reach - 1)


def remove_windows(state: LogState, lines: Sequence[Line]) -> Iterator[int]:
    """Remove the windows before the first one that is kept, and yield each that this run removed.

    `lines` are the models that are to learn each window before it goes.

    A window's impressions go with the next window: by them are found the keys that that one repeats. Files go later.
    """
    first = first_kept(state, lines)
    if first is None:
        return
    impressions = deque(sorted(state.impressions.files))
    has_removed = False
    for window in sorted({window for name in OTHERS for window in getattr(state, name).files if window < first}):
        while impressions and impressions[0] < window:
            _remove(state, IMPRESSIONS, impressions.popleft())
        if sum(_remove(state, name, window) for name in OTHERS):
            has_removed = True
            yield window
    if has_removed:
        for name in (IMPRESSIONS, *OTHERS):
            vacuum(state.das.table(name, {}), keep_s=KEEP_VERSIONS_S)


def first_kept_state(das: Das, learned: Sequence[int]) -> int:
    """Return the window of the first state of a line that is kept; `learned` are its windows, in order of time.

    Those are kept by which windows after the newest learned one are predicted.
    """
    keep = das.config.keep_snapshots
    if not keep:
        return learned[0]
    lag = das.grid.num_windows(das.rules.longest + das.ticks(das.config.allowed_lateness))
    next_needs = max((window for window in learned if window <= learned[-1] - lag), default=learned[0])
    return min(learned[-keep:][0], next_needs)


def remove_states(state: LogState) -> Iterator[str]:
    """Remove the states of models that are not kept, and yield the folder of each that this run removed.

    That a state goes is said first, so that nothing reads it meanwhile.
    """
    das, snapshots = state.das, state.snapshots
    if not das.config.keep_snapshots or not snapshots.files:
        return
    rows = snapshots.read(snapshots.files, columns=[WINDOW, "model", "line"]).sort(WINDOW)
    for (model, line), rows_of_line in rows.group_by("model", "line", maintain_order=True):
        learned = rows_of_line[WINDOW].to_list()
        first = first_kept_state(das, learned)
        part = f"{model}-{line}"
        if first > learned[0] and first - 1 > removed_until(snapshots, states_of(part)):
            marks = {states_of(part): first - 1 - NO_WINDOW}
            commit(das.snapshots(), [], item=f"removal/{part}/{first}", marks=marks)
        of_line = join(das.root, "models", str(model), str(line))
        for name in list_folders(of_line):
            if int(name) < first:
                remove_tree(join(of_line, name))
                yield join(of_line, name)


def _has_learned(state: LogState, line: Line, window: int) -> bool:
    """Return whether a line has learned a window with examples, or has found that none of them is of its domains."""
    predicted = [file.num_rows for file in state.predictions.files.get(window, ()) if file.part == line.part]
    num_rows = sum(predicted) if predicted else state.examples.num_rows([window])
    return not num_rows or bool(state.snapshots.newest_revision(window, part=line.part))


def _remove(state: LogState, name: str, window: int) -> int:
    """Remove a window from a table; return how many commits this took, of which each is made once."""
    found: TableState = getattr(state, name)
    table, marks = state.das.table(name, found.columns), {REMOVED: window - NO_WINDOW}
    parts = sorted({file.part for file in found.files.get(window, ())})
    return sum(
        commit(table, [], item=f"removal/{window}/{part}", replaces=window, part=part, marks=marks) for part in parts
    )
