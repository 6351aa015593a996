"""A learner with its optimizer: what tests a window, and learns it once its labels are known.

Legend: B examples, T tasks.
"""

from pathlib import Path

import torch

from exfm.artifact.manifest import Window
from exfm.events.examples import Examples, Floats
from exfm.training.checkpoint import load_training_state, load_weights, save_training_state
from exfm.training.config import TrainingConfig
from exfm.training.learner import Learner


class Trainer:
    """Tests windows and learns them, each in one pass; the caller says when a window's labels are known.

    Many trainers may walk over one stream.
    """

    def __init__(self, learner: Learner, config: TrainingConfig) -> None:
        self.learner = learner
        self._batch_size = config.batch_size
        self._optimizer = _adam(learner, config)
        self._has_started = False
        self._tested: tuple[Examples, Floats] | None = None

    def test(self, examples: Examples) -> Floats:
        """Return the served probability of each task; [B, T]."""
        return self.learner.shrinkage.served(self._own(examples))

    def learn(self, window: Window, examples: Examples, scores_BT: Floats) -> None:
        """Learn a window whose labels are known; `scores_BT` are what `test` returned for it before."""
        if not self._has_started:
            self.learner.start(examples)
            self._has_started = True
        self.learner.begin(window, examples, scores_BT)
        self.learner.shrinkage.learn(examples, self._own(examples))
        self._tested = None
        self.fit(examples)

    def fit(self, examples: Examples) -> None:
        """Take one step of the optimizers for each minibatch, in order; the part of `learn` that moves the weights."""
        inputs, ranks = self.learner.model.inputs(examples.batches), self.learner.model.ranks
        parameters = [parameter for _, parameter in self.learner.dense_parameters()]
        for start in range(0, len(examples), self._batch_size):
            num_rows = min(self._batch_size, len(examples) - start)
            first, last = (start + row for row in ranks.rows_of(num_rows))
            self._optimizer.zero_grad()
            loss = self.learner.loss(examples.rows(first, last), inputs.rows(first, last))
            (loss * ((last - first) / num_rows)).backward()  # type: ignore[no-untyped-call]
            ranks.add_up([parameter.grad for parameter in parameters if parameter.grad is not None])
            self._optimizer.step()

    def _own(self, examples: Examples) -> Floats:
        """Return the model's logits before shrinkage; those of the examples that were asked for last are kept."""
        if self._tested is None or self._tested[0] is not examples:
            self._tested = (examples, self.learner.model.logits(examples.batches))
        return self._tested[1]

    def save_state(self, folder: Path) -> None:
        """Write what training needs, besides the weights, to go on as if it had never stopped."""
        save_training_state(self.learner, self._optimizer, folder)

    def go_on(self, folder: Path) -> None:
        """Take the weights and the training state of a snapshot's folder, and go on from there.

        Raises: StorageError if a file is missing, damaged or another model's.
        """
        load_weights(self.learner.model, folder)
        load_training_state(self.learner, self._optimizer, folder)
        self._has_started = True


def _adam(learner: Learner, config: TrainingConfig) -> torch.optim.Adam:
    """Return the optimizer of everything but the tables, which have their own."""
    optimizer = torch.optim.Adam(learner.parameter_groups(config.learning_rate), fused=True)
    for _, parameter in learner.dense_parameters():  # Adam makes it at a parameter's first step, which may never come
        moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    return optimizer
