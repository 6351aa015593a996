"""All models of one vertical model's comparison, which walk over the stream together.

Legend: B examples, T tasks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from exfm.artifact.manifest import Window
from exfm.distill.config import VerticalConfig
from exfm.distill.learner import DistillationLearner
from exfm.evaluation.comparison import ModelCost
from exfm.evaluation.config import LABEL, SELF, UNTAUGHT, ComparisonConfig, Method, Setting
from exfm.evaluation.sizes import sized
from exfm.evaluation.teachers import Teachers
from exfm.evaluation.timed import TimedTrainer
from exfm.events.examples import Examples, Floats, PseudoLabels
from exfm.models.config import ModelConfig
from exfm.models.ranking import RankingModel
from exfm.training.data import Data
from exfm.training.reference import reference_lines
from exfm.training.trainer import Trainer


@dataclass(frozen=True)
class Contender:
    """A method with a teacher; a method that needs none has the run's own."""

    teacher: str
    method: Method
    size: int = 1
    """Factor on the vertical model's sizes; only label-only models are larger."""


@dataclass(frozen=True)
class Entry:
    """A model that walks over the stream."""

    contender: Contender
    setting: Setting
    seed: int
    """Seed of the initial parameters."""


@dataclass(frozen=True)
class Scores:
    """Probabilities of a window, [B, T]: of every entry, of the control's teachers, and of the reference lines."""

    by_entry: Mapping[Entry, Floats]
    by_tutor: Mapping[Entry, Floats]
    by_line: Mapping[str, Floats]


def contenders_of(config: ComparisonConfig, teachers: Iterable[str]) -> tuple[Contender, ...]:
    """Return what is compared: with the first teacher all methods, with the others those that are taught."""
    own, *others = teachers
    taught = [method for method in config.methods if method not in UNTAUGHT]
    return (
        *(Contender(own, method) for method in config.methods),
        *(Contender(own, LABEL, size) for size in config.label_only_sizes),
        *(Contender(teacher, method) for teacher in others for method in taught),
    )


def entries_of(vertical: VerticalConfig, config: ComparisonConfig, teachers: Iterable[str]) -> tuple[Entry, ...]:
    """Return all models that are tried: each contender with each of its settings, from each seed."""
    return tuple(
        Entry(contender, Setting(weight=weight, learning_rate=learning_rate), vertical.model.seed + place)
        for contender in contenders_of(config, teachers)
        for weight in ((0.0,) if contender.method == LABEL else config.weights or (vertical.distillation.weight,))
        for learning_rate in config.learning_rates or (vertical.training.learning_rate,)
        for place in range(config.num_seeds)
    )


class Field:
    """All entries, and the reference lines, which are tested and learn at the same times."""

    def __init__(self, vertical: VerticalConfig, data: Data, config: ComparisonConfig, teachers: Teachers) -> None:
        def trainer(entry: Entry) -> TimedTrainer:
            taught_by = teachers.taught_by[entry.contender.teacher]
            return TimedTrainer(make_trainer(vertical, data, entry, taught_by=taught_by))

        self._trainers = {entry: trainer(entry) for entry in entries_of(vertical, config, teachers.taught_by)}
        self._tutor_of = {
            entry: Entry(
                replace(entry.contender, method=LABEL),
                entry.setting.model_copy(update={"weight": 0.0}),
                entry.seed + config.num_seeds,
            )
            for entry in self._trainers
            if entry.contender.method == SELF
        }
        self._tutors = {tutor: trainer(tutor) for tutor in dict.fromkeys(self._tutor_of.values())}
        self._lines = reference_lines(data.schema)
        self._has_learned = False

    def entries(self) -> tuple[Entry, ...]:
        """Return those that walk on, in the order of their seeds within each contender."""
        return tuple(self._trainers)

    def costs(self) -> dict[Contender, ModelCost]:
        """Return what one model of each contender cost until now, mean over those that walk on."""
        costs: dict[Contender, list[ModelCost]] = {}
        for entry, trainer in self._trainers.items():
            costs.setdefault(entry.contender, []).append(trainer.cost())
        return {contender: _mean(of_seeds) for contender, of_seeds in costs.items()}

    def keep(self, chosen: Mapping[Contender, Setting]) -> None:
        """Drop entries whose setting was not chosen for their contender, and tutors without a pupil."""
        self._trainers = {
            entry: trainer for entry, trainer in self._trainers.items() if chosen[entry.contender] == entry.setting
        }
        kept = {self._tutor_of[entry] for entry in self._trainers if entry in self._tutor_of}
        self._tutors = {tutor: trainer for tutor, trainer in self._tutors.items() if tutor in kept}

    def test(self, examples: Examples) -> Scores:
        """Return what all predict; a tutor that learned nothing yet says nothing."""
        by_tutor = {tutor: trainer.test(examples) for tutor, trainer in self._tutors.items()}
        if not self._has_learned:
            by_tutor = {tutor: np.full_like(scores_BT, np.nan) for tutor, scores_BT in by_tutor.items()}
        return Scores(
            by_entry={entry: trainer.test(examples) for entry, trainer in self._trainers.items()},
            by_tutor=by_tutor,
            by_line={name: line.test(examples) for name, line in self._lines.items()},
        )

    def learn(self, window: Window, examples: Examples, scores: Scores, /) -> None:
        """Let all learn a window."""
        for entry, trainer in self._trainers.items():
            seen = examples
            if entry in self._tutor_of:
                seen = _taught(examples, scores.by_tutor[self._tutor_of[entry]])
            trainer.learn(window, seen, scores.by_entry[entry])
        for tutor, trainer in self._tutors.items():
            trainer.learn(window, examples, scores.by_tutor[tutor])
        for line in self._lines.values():
            line.learn(examples)
        self._has_learned = True


def make_trainer(vertical: VerticalConfig, data: Data, entry: Entry, *, taught_by: Sequence[str]) -> Trainer:
    """Return an entry as it starts: the vertical model with its method, setting and seed."""
    method = entry.contender.method
    model = larger(vertical, entry.contender.size).model_copy(update={"seed": entry.seed})
    distillation = vertical.distillation.model_copy(
        update={"method": "kd" if method == SELF else method, "weight": entry.setting.weight}
    )
    learner = DistillationLearner(
        RankingModel(data.schema, model), distillation, teachers=(SELF,) if method == SELF else taught_by
    )
    return Trainer(learner, vertical.training.model_copy(update={"learning_rate": entry.setting.learning_rate}))


def _mean(costs: Sequence[ModelCost]) -> ModelCost:
    return ModelCost(
        num_parameters=costs[0].num_parameters,
        training_cpu_s=fmean(cost.training_cpu_s for cost in costs),
        scoring_cpu_s=fmean(cost.scoring_cpu_s for cost in costs),
    )


def larger(vertical: VerticalConfig, size: int) -> ModelConfig:
    """Return a vertical model's sizes times a factor.

    Raises: ConfigError if they get too large.
    """
    return sized(vertical.model, size, source=f"comparison.label_only_sizes: vertical model {vertical.name!r}")


def _taught(examples: Examples, probabilities_BT: Floats) -> Examples:
    """Return examples with a tutor's pseudo-labels, whose ages method `kd` does not look at."""
    pseudo = PseudoLabels(probabilities_BT=probabilities_BT, ages_B=np.zeros(len(examples)))
    return replace(examples, pseudo={SELF: pseudo})
