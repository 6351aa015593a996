"""Test, then train: each window is predicted by a model that had only labels known before it, then learned once."""

from collections import deque
from collections.abc import Callable, Iterable

from exfm.artifact.manifest import Window
from exfm.events.examples import Examples, Floats
from exfm.training.trainer import Trainer


def walk_windows(
    trainer: Trainer,
    windows: Iterable[Window],
    *,
    read: Callable[[Window], Examples],
    label_delay: int,
    known_until: int,
    on_tested: Callable[[Window, Examples, Floats], None],
    on_trained: Callable[[Window, Examples], None],
) -> None:
    """Predict, then learn, each window in order of time.

    A window's labels are known `label_delay` after its end, so it is learned before the first window that starts no
    earlier than that, or at the end if `known_until` allows; the youngest windows are left for a later walk. All times
    are in event time.

    `on_tested` gets the probabilities, [B, T], made before anything unknown at the window's start was learned.
    """
    pending: deque[tuple[Window, Examples, Floats]] = deque()

    def learn_until(time: int) -> None:
        while pending and pending[0][0].end + label_delay <= time:
            window, examples, scores_BT = pending.popleft()
            if len(examples):  # else feedback alone came in it
                trainer.learn(window, examples, scores_BT)
                on_trained(window, examples)

    for window in windows:
        learn_until(window.start)
        examples = read(window)
        scores_BT = trainer.test(examples)
        on_tested(window, examples, scores_BT)
        pending.append((window, examples, scores_BT))
    learn_until(known_until)
