"""What learns a line, and what scores by its states; several ranks have one of each, and use them together."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from exfm.artifact.digests import digest_of_file
from exfm.artifact.manifest import Window
from exfm.artifact.output import writing
from exfm.artifact.stores import local_copy
from exfm.errors import DataError
from exfm.events.examples import Examples, Floats
from exfm.features.batch import NetBatches
from exfm.metrics.quality import normalized_entropy
from exfm.models.config import ModelConfig
from exfm.models.ranking import RankingModel
from exfm.schema import Schema
from exfm.training.checkpoint import (
    REFERENCES,
    TRAINING_STATE,
    WEIGHTS,
    load_references,
    load_weights,
    save_references,
    save_weights,
)
from exfm.training.crew import SOLO, Crew, CrewMember, by_all
from exfm.training.line import Line
from exfm.training.manifest import BASE_RATE, SCORE, TableIds
from exfm.training.reference import References
from exfm.training.trainer import Trainer

WHAT_HELPS = "normalise dense features, or lower learning_rate"

MAX_NE_RATIO = 5.0
"""Of a state's NE and the base rate's, on what was just learned: above it, the model diverged.

Where labels change at once, both have a higher NE, and the ratio stays.
"""

CHECKED_SHARE, LEAST_CHECKED = 1 / 32, 256
"""Share of a window's examples, the newest, on which a state is checked, and their least number."""

STATE = (WEIGHTS, TRAINING_STATE, REFERENCES)
"""Files of a state."""


class LineTrainer(CrewMember):
    """Learns one window after the other, and keeps the state after each.

    Alone, at one thread on a CPU, a trainer that was killed and goes on leaves the bytes of one that was not.
    """

    def __init__(self, line: Line, root: str, crew: Crew = SOLO) -> None:
        super().__init__(crew, line, root)
        torch.set_num_threads(line.training.torch_threads)
        self._line, self._root = line, root
        self.learner = line.make(RankingModel(line.schema, line.model, crew.ranks))
        self._trainer = Trainer(self.learner, line.training)
        self._references = References(line.schema)

    @by_all
    def go_on(self, window: int) -> None:
        """Take the state after a window.

        Raises: StorageError if it is missing, damaged or another model's.
        """
        with local_copy(self._line.folder(self._root, window), STATE) as folder:
            self._trainer.go_on(folder)
            self._references.restore(load_references(folder))

    @by_all
    def learn(self, window: Window, examples: Examples, scores_BT: Floats) -> dict[str, TableIds]:
        """Learn a window, and return the figures of its ids by table; `scores_BT` are the probabilities before.

        Raises: DataError if the model diverged: the state before it stays the last.
        """
        self._trainer.learn(window, examples, scores_BT)
        tables = self._references.add_ids(window, examples)
        self._references.learn(window, examples)
        num_checked = max(int(len(examples) * CHECKED_SHARE), LEAST_CHECKED)
        self._require_sound(window, examples.rows(max(len(examples) - num_checked, 0), len(examples)))
        return tables

    def _require_sound(self, window: Window, newest: Examples) -> None:
        """Check that the weights are numbers, and that they predict the newest examples of a learned window."""
        diverged = f"{self._line.name}: training diverged in window {window.index}"
        if not all(bool(value.isfinite().all()) for _, value in self.learner.dense_parameters()):
            raise DataError(f"{diverged}: weights are no numbers; {WHAT_HELPS}; the state before it stays")
        served_BT = self.learner.shrinkage.served(self.learner.model.logits(newest.batches))
        of_base_BT = self._references.lines[BASE_RATE].test(newest)
        for task, name in enumerate(self._line.schema.tasks()):
            labels_B, weights_B = newest.labels_BT[:, task], newest.weights_BT[:, task]
            found, base = (normalized_entropy(of[:, task], labels_B, weights_B) for of in (served_BT, of_base_BT))
            if found is not None and base is not None and not found <= MAX_NE_RATIO * base:
                raise DataError(
                    f"{diverged}: NE of task {name!r} is {found:.4g} on examples that it just learned, expected at "
                    f"most {MAX_NE_RATIO:g} times the base rate's, {base:.4g}; {WHAT_HELPS}; the state before it stays"
                )

    @by_all
    def keep(self, window: int) -> str:
        """Write the state after a window, which was learned last, and return the SHA-256 of its weights.

        The leader writes; the others return nothing.

        Raises: StorageError if it cannot be written.
        """
        if not self._crew.ranks.leads:
            self._save(Path())
            return ""
        with writing(self._line.folder(self._root, window), files=STATE) as folder:
            self._save(folder)
            save_references(self._references.state(), folder)
            return digest_of_file(folder / WEIGHTS).sha256

    def _save(self, folder: Path) -> None:
        save_weights(self.learner, folder)
        self._trainer.save_state(folder)


class LineScorer(CrewMember):
    """Scores by any state of a line; the last one that was asked for stays loaded.

    Its tables take memory from the first score on.
    """

    def __init__(self, schema: Schema, model: ModelConfig, crew: Crew = SOLO) -> None:
        super().__init__(crew, schema, model)
        self._schema, self._config = schema, model
        self._loaded = ""

    @cached_property
    def _model(self) -> RankingModel:
        return RankingModel(self._schema, self._config, self._crew.ranks)

    @by_all
    def probabilities(self, batches: NetBatches, folder: str) -> Floats:
        """Return the served probability of each task by the state in a folder or at a URL; [B, T].

        Raises: StorageError if the state is missing, damaged or another model's; DataError if a probability is no
        number.
        """
        if folder != self._loaded:
            with local_copy(folder, (WEIGHTS,)) as files:
                load_weights(self._model, files)
            self._loaded = folder
        probabilities_BT = self._model.probabilities(batches)
        if not np.isfinite(probabilities_BT).all():
            raise DataError(f"{folder}: this state's scores are no numbers; {WHAT_HELPS}")
        return probabilities_BT


class Predictor:
    """What a line and its reference lines predict by the state that a window is predicted by."""

    def __init__(self, line: Line, crew: Crew = SOLO) -> None:
        self._line = line
        self._scorer = LineScorer(line.schema, line.model, crew)
        self._references, self._loaded = References(line.schema), ""

    def __call__(self, examples: Examples, folder: str) -> dict[str, Floats]:
        """Return probabilities by source, [B, T]; `folder` has the state, empty: the line has learned nothing.

        Raises: StorageError if the state is missing, damaged or another model's.
        """
        if not folder or not len(examples):
            own_BT = np.full_like(examples.labels_BT, 0.5)
        else:
            own_BT = self._scorer.probabilities(examples.batches, folder)
        return {SCORE: own_BT, **self.references(examples, folder)}

    def references(self, examples: Examples, folder: str) -> Mapping[str, Floats]:
        """Return the probabilities of the reference lines, [B, T].

        Raises: as a call does.
        """
        if folder != self._loaded:
            with local_copy(folder, (REFERENCES,)) as files:
                self._references.restore(load_references(files))
            self._loaded = folder
        return self._references.test(examples)
