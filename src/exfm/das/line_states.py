"""The states of a model that goes on, and which of them may predict a window."""

from exfm.das.closing import LogState, removed_until, states_of
from exfm.training.line import Line
from exfm.training.manifest import Snapshot


def known_windows(state: LogState, line: Line) -> set[int]:
    """Return the windows that a line can learn, or has learned.

    Those of a foundation model have labels, and not each row is a duplicate. Those of a vertical model have examples of
    its domains, or may have some: it has not predicted them yet.
    """
    if line.kind == "foundation":
        return {window for window in state.labels.files if state.labels.num_rows([window])}
    predicted = state.predictions.files
    return {
        window
        for window in state.examples.files
        if all(file.num_rows for file in predicted.get(window, ()) if file.part == line.part)
    }


class LineStates:
    """The states of a line, of which the newest that could have existed predicts a window."""

    def __init__(self, state: LogState, line: Line) -> None:
        self._das, self._line = state.das, line
        self.learned = state.snapshots.windows_of(line.part)
        """Windows that were learned, in order of time."""
        self._removed = removed_until(state.snapshots, states_of(line.part))

    def known_until(self, window: int) -> int:
        """Return when the last label that the state after a window has seen was known, in the schema's unit.

        A window is labelled once all tasks' labels are known, also for a line that learns fewer tasks.
        """
        return (self._das.grid.window(window).end + self._das.rules.longest) // self._das.ticks(1)

    def may_predict(self, learned: int, window: int) -> bool:
        """Return whether the state after a window could have existed at the start of another."""
        start = self._das.grid.window(window).start // self._das.ticks(1)
        return self.known_until(learned) + self._das.config.allowed_lateness <= start

    def for_window(self, window: int) -> Snapshot | None:
        """Return the newest state that may predict a window; None: there is none, or it is not kept."""
        kept = [learned for learned in self.learned if learned > self._removed]
        last = next((learned for learned in reversed(kept) if self.may_predict(learned, window)), None)
        if last is None:
            return None
        folder = self._line.folder(self._das.root, last)
        version, known_until = self._line.version(last), self.known_until(last)
        return Snapshot(version=version, folder=folder, window=last, known_until=known_until)

    def may_bring_newer(self, window: int) -> bool:
        """Return False: before a line predicts a window, it learns all that it may know."""
        return False
