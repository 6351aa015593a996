"""A model that goes on: its states, window after window, of which each is the next one's parent.

Other features, sizes or training settings make another line, from the oldest window on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from exfm.artifact.digests import digest_of_json
from exfm.artifact.manifest import Window
from exfm.artifact.output import writing
from exfm.artifact.stores import join, local_copy
from exfm.config import Config
from exfm.errors import DataError
from exfm.events.examples import Examples, Floats
from exfm.features.batch import NetBatches
from exfm.models.config import ModelConfig
from exfm.models.ranking import RankingModel
from exfm.schema import Schema
from exfm.training.checkpoint import TRAINING_STATE, WEIGHTS, load_weights, save_weights
from exfm.training.config import TrainingConfig
from exfm.training.learner import Learner
from exfm.training.trainer import Trainer


@dataclass(frozen=True)
class Line:
    """A model by its settings."""

    name: str
    schema: Schema
    """The part of the log's schema that it uses."""
    model: ModelConfig
    training: TrainingConfig
    make: Callable[[RankingModel], Learner]
    """Returns what learns by it."""
    domains: tuple[str, ...] = ()
    """Whose examples it learns from; empty: all."""
    teachers: tuple[str, ...] = ()
    """Foundation models whose pseudo-labels it reads."""
    others: tuple[Config, ...] = ()
    """Other settings that make it what it is."""

    @cached_property
    def digest(self) -> str:
        """Return what tells it from lines of the same name with other settings; 12 hexadecimal digits."""
        settings = [one.to_dict() for one in (self.schema, self.model, self.training, *self.others)]
        return digest_of_json({"settings": settings, "domains": self.domains, "teachers": self.teachers})[:12]

    @property
    def part(self) -> str:
        """Return its part of the windows of tables that models share."""
        return f"{self.name}-{self.digest}"

    def folder(self, root: str, window: int) -> str:
        """Return where the state after a window lies, below a run's root."""
        return join(root, "models", self.name, self.digest, str(window))

    def version(self, window: int) -> str:
        """Return the name of the state after a window."""
        return f"{self.part}-{window}"


class LineTrainer:
    """Learns one window after the other, and keeps the state after each.

    At one thread a trainer that was killed and goes on leaves the bytes of one that was not.
    """

    def __init__(self, line: Line, root: str) -> None:
        torch.set_num_threads(line.training.torch_threads)
        self._line, self._root = line, root
        self.learner = line.make(RankingModel(line.schema, line.model))
        self._trainer = Trainer(self.learner, line.training)

    def go_on(self, window: int) -> None:
        """Take the state after a window.

        Raises: StorageError if it is missing, damaged or another model's.
        """
        with local_copy(self._line.folder(self._root, window), (WEIGHTS, TRAINING_STATE)) as folder:
            self._trainer.go_on(folder)

    def learn(self, window: Window, examples: Examples, scores_BT: Floats) -> None:
        """Learn a window, and keep the state after it; `scores_BT` are the probabilities before.

        Raises: DataError if the model diverged: the state before it stays the last.
        """
        self._trainer.learn(window, examples, scores_BT)
        if not all(bool(value.isfinite().all()) for _, value in self.learner.dense_parameters()):
            raise DataError(
                f"{self._line.name}: weights are no numbers after window {window.index}; normalise dense features, or "
                "lower learning_rate; the state before it stays"
            )
        with writing(self._line.folder(self._root, window.index), files=(WEIGHTS, TRAINING_STATE)) as folder:
            save_weights(self.learner, folder)
            self._trainer.save_state(folder)


class LineScorer:
    """Scores by any state of a line; the last one that was asked for stays loaded."""

    def __init__(self, schema: Schema, model: ModelConfig) -> None:
        self._model = RankingModel(schema, model)
        self._loaded = ""

    def probabilities(self, batches: NetBatches, folder: str) -> Floats:
        """Return the served probability of each task by the state in a folder or at a URL; [B, T].

        Raises: StorageError if the state is missing, damaged or another model's.
        """
        if folder != self._loaded:
            with local_copy(folder, (WEIGHTS,)) as files:
                load_weights(self._model, Path(files))
            self._loaded = folder
        return self._model.probabilities(batches)
