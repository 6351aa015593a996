"""Test, then train: each window is predicted by a model that had only labels known before it, then learned once."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from exfm.artifact.manifest import Window
from exfm.events.examples import Examples
from exfm.training.reading import read_ahead

ScoresT = TypeVar("ScoresT")

OnWindow = Callable[[int, int], None]
"""Called after each window of a walk, with the number of windows that are done and of all."""


class Walker(Protocol[ScoresT]):
    """What is walked over windows: a trainer, or several."""

    def test(self, examples: Examples) -> ScoresT:
        """Return what it predicts for each example."""

    def learn(self, window: Window, examples: Examples, scores: ScoresT, /) -> None:
        """Learn a window whose labels are known; `scores` are what `test` returned for it before."""


def walk_windows(
    walker: Walker[ScoresT],
    windows: Iterable[Window],
    *,
    read: Callable[[Window], Examples],
    label_delay: int,
    known_until: int,
    on_tested: Callable[[Window, Examples, ScoresT], None],
    on_trained: Callable[[Window, Examples], None],
    reads_ahead: bool = True,
) -> None:
    """Predict, then learn, each window in order of time.

    A window's labels are known `label_delay` after its end, so it is learned before the first window that starts no
    earlier than that, or at the end if `known_until` allows; the youngest windows are left for a later walk. All times
    are in event time.

    `on_tested` gets the predictions made before anything unknown at the window's start was learned. With `reads_ahead`,
    a thread reads the next window meanwhile, so `read` must not need what the walker learns. Without, the walker is
    alone, so that its CPU time is the process's.
    """
    pending: deque[tuple[Window, Examples, ScoresT]] = deque()

    def learn_until(time: int) -> None:
        while pending and pending[0][0].end + label_delay <= time:
            window, examples, scores = pending.popleft()
            if len(examples):  # else feedback alone came in it
                walker.learn(window, examples, scores)
                on_trained(window, examples)

    stream = read_ahead(windows, read) if reads_ahead else ((window, read(window)) for window in windows)
    for window, examples in stream:
        learn_until(window.start)
        scores = walker.test(examples)
        on_tested(window, examples, scores)
        pending.append((window, examples, scores))
    learn_until(known_until)
