"""How fast a line learns: examples a second, by the times at which the log of `snapshots` has its states committed.

Rows of `snapshots` have no clock time: a run that was killed and goes on must leave the rows of an undisturbed one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from exfm.das.closing import LogState
from exfm.das.log_tables import Das
from exfm.tables.table import Committed
from exfm.training.line import Line

NUM_COMMITS = 200
"""Newest commits of `snapshots`, of all lines, that are read."""

NUM_WINDOWS = 8
"""Newest windows of which the pace is the median."""

MAX_SHARE = 0.5
"""Share of its event time in which a window must be learned to count. In a log that is up to date, windows are learned
as fast as they come, and the time between two commits is mostly waiting."""

ORDINAL_LIMIT_MS = 3_600_000
"""Time in which a window must be learned to count, where event time is in steps. A night between two runs is longer."""


@dataclass(frozen=True)
class LearnedWindow:
    """A window that a line learned."""

    window: int
    num_examples: int
    at_ms: int
    """Time of the clock at which its state was committed."""


def learned_windows(state: LogState, line: Line, commits: Sequence[Committed]) -> list[LearnedWindow]:
    """Return the windows whose states a line has among commits of `snapshots`, in the order of these."""
    prefix = f"snapshots/{line.part}/"
    at_ms = {int(one.item.removeprefix(prefix)): one.at_ms for one in commits if one.item.startswith(prefix)}
    num_examples = {window: state.predictions.num_rows([window], part=line.part) for window in at_ms}
    return [LearnedWindow(window, num_examples[window], at) for window, at in at_ms.items()]


def examples_per_s(learned: Sequence[LearnedWindow], das: Das) -> float | None:
    """Return the pace of the newest windows: the median of the examples a second between one commit and the next.

    Windows after a pause do not count, such as the first one of a night. None: no window counts.
    """
    paces = [
        1_000 * now.num_examples / took_ms
        for before, now in pairwise(learned)
        if now.num_examples and 0 < (took_ms := now.at_ms - before.at_ms) <= _limit_ms(das, now.window - before.window)
    ]
    return median(paces[-NUM_WINDOWS:]) if paces else None


def _limit_ms(das: Das, num_windows: int) -> float:
    if das.schema.event_time.kind == "ordinal":
        return ORDINAL_LIMIT_MS
    return MAX_SHARE * num_windows * das.window_length * 1_000


def num_examples_of(state: LogState, line: Line, windows: Sequence[int]) -> int:
    """Return how many examples of these windows a line learns; no row is read.

    Of windows that a vertical model has not predicted this is an estimate, by its share of the examples of the others.
    """
    if line.kind == "foundation":
        return state.labels.num_rows(windows)
    predicted = [window for window in state.predictions.windows_of(line.part) if window in state.examples.files]
    own, others = set(windows) & set(predicted), set(windows) - set(predicted)
    newest = predicted[-NUM_WINDOWS:]
    num_newest = state.examples.num_rows(newest)
    share = state.predictions.num_rows(newest, part=line.part) / num_newest if num_newest else 1.0
    return state.predictions.num_rows(own, part=line.part) + round(share * state.examples.num_rows(others))
