"""A trainer, and the CPU time that it took."""

from time import process_time

from exfm.artifact.manifest import Window
from exfm.evaluation.comparison import ModelCost
from exfm.events.examples import Examples, Floats
from exfm.training.trainer import Trainer


class TimedTrainer:
    """Tests and learns as its trainer does, and adds up this process's CPU time meanwhile, of all threads."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._testing_cpu_s = 0.0
        self._learning_cpu_s = 0.0

    def test(self, examples: Examples) -> Floats:
        """Return the served probability of each task; [B, T]."""
        start = process_time()
        scores_BT = self._trainer.test(examples)
        self._testing_cpu_s += process_time() - start
        return scores_BT

    def learn(self, window: Window, examples: Examples, scores_BT: Floats) -> None:
        """Learn a window whose labels are known."""
        start = process_time()
        self._trainer.learn(window, examples, scores_BT)
        self._learning_cpu_s += process_time() - start

    def cost(self) -> ModelCost:
        """Return what it cost until now."""
        return ModelCost(
            num_parameters=self._trainer.learner.model.num_parameters(),
            training_cpu_s=self._learning_cpu_s,
            scoring_cpu_s=self._testing_cpu_s,
        )
