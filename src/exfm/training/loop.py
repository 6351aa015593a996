"""Test, then train: each window is predicted by a model that had only labels known before it, then learned once."""

from collections import deque
from collections.abc import Callable, Iterable

import torch

from exfm.artifact.manifest import Window
from exfm.events.examples import Examples, Floats
from exfm.training.config import TrainingConfig
from exfm.training.learner import Learner


def dense_optimizer(learner: Learner, config: TrainingConfig) -> torch.optim.Adam:
    """Return the optimizer of everything but the tables, which carry their own."""
    return torch.optim.Adam([value for _, value in learner.dense_parameters()], lr=config.learning_rate)


def walk_windows(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    windows: Iterable[Window],
    *,
    read: Callable[[Window], Examples],
    label_delay: int,
    known_until: int,
    batch_size: int,
    on_tested: Callable[[Window, Examples, Floats], None],
    on_trained: Callable[[Window, Examples], None],
) -> None:
    """Predict, then learn, each window in order of time.

    A window's labels are known `label_delay` after its end, so it is learned before the first window that starts no
    earlier than that, or at the end if `known_until` allows; the youngest windows are left for a later walk. All times
    are in event time.

    `on_tested` gets the probabilities, [B, T], made before anything unknown at the window's start was learned.
    """
    pending: deque[tuple[Window, Examples]] = deque()
    for window in windows:
        while pending and pending[0][0].end + label_delay <= window.start:
            _train(learner, optimizer, pending.popleft(), batch_size, on_trained)
        examples = read(window)
        on_tested(window, examples, learner.model.probabilities(examples.batches))
        pending.append((window, examples))
    while pending and pending[0][0].end + label_delay <= known_until:
        _train(learner, optimizer, pending.popleft(), batch_size, on_trained)


def _train(
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    due: tuple[Window, Examples],
    batch_size: int,
    on_trained: Callable[[Window, Examples], None],
) -> None:
    window, examples = due
    if not len(examples):  # feedback alone came in it
        return
    for part in examples.minibatches(batch_size):
        optimizer.zero_grad()
        learner.loss(part).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    on_trained(window, examples)
