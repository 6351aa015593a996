"""All methods of one vertical model over one stream: each window is read and encoded once, then tested, then learned.

Legend: B examples of a window, N of all reported windows, S seeds, T tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from exfm.artifact.manifest import Window
from exfm.distill.config import VerticalConfig
from exfm.distill.learner import DistillationLearner
from exfm.errors import ConfigError, DataError
from exfm.evaluation.config import LABEL, SELF, ComparisonConfig, Method, Setting
from exfm.events.examples import Examples, Floats, PseudoLabels, examples_of
from exfm.metrics import entropy, log_losses
from exfm.models.ranking import RankingModel
from exfm.training.loop import walk_windows
from exfm.training.run import Data, OnWindow
from exfm.training.trainer import Trainer


@dataclass(frozen=True)
class Entry:
    """A model that walks over the stream."""

    method: Method
    setting: Setting
    seed: int
    """Of its initial parameters."""


@dataclass(frozen=True)
class Walked:
    """What was predicted in the windows that count, each before it was learned."""

    windows: tuple[Window, ...]
    chosen: Mapping[Method, Setting]
    """By the windows before."""
    keys: pl.Series
    """Of the impressions, in the order of the windows; length N."""
    window_N: npt.NDArray[np.int64]
    """Index of each one's window."""
    labels_NT: Floats
    weights_NT: Floats
    scores: Mapping[Method, Floats]
    """Probabilities; [S, N, T] of each method."""


def walk(
    vertical: VerticalConfig,
    data: Data,
    config: ComparisonConfig,
    *,
    on_window: OnWindow = lambda num_done, num_windows: None,
) -> Walked:
    """Return what every method predicted of a vertical model's windows, each with the setting that is its best.

    All settings walk over the first windows, by which each method's best one is chosen: least normalized entropy, mean
    over tasks and seeds. Only that one goes on. The windows that count begin when the labels of those are known.

    Raises: ConfigError if no window is left for tuning or counting; DataError for unusable examples, or if training
    diverged.
    """
    torch.set_num_threads(vertical.training.torch_threads)
    tuning, counted = split_windows(vertical, data, config)
    field = _Field(vertical, data, config)
    records: list[_Record] = []
    chosen: dict[Method, Setting] = {}
    num_tested = 0

    def keep(window: Window, examples: Examples, scores: "_Scores") -> None:
        nonlocal chosen, num_tested
        if window in tuning or window in counted:
            records.append(_Record(window, examples.keys, examples.labels_BT, examples.weights_BT, scores.by_entry))
        if window in counted:
            _require_finite(window, scores.by_entry, name=vertical.name)
        num_tested += 1
        if not chosen and num_tested < len(data.windows) and data.windows[num_tested] == counted[0]:
            chosen = _best(records, name=vertical.name)
            field.keep(chosen)
            records.clear()
        on_window(num_tested, len(data.windows))

    walk_windows(
        field,
        data.windows,
        read=lambda window: examples_of(data.frame(window), data.schema, teachers=data.teachers),
        label_delay=data.label_delay,
        known_until=data.known_until,
        on_tested=keep,
        on_trained=lambda window, examples: None,
    )
    return Walked(
        windows=tuple(counted),
        chosen=chosen,
        keys=pl.concat([record.keys for record in records]),
        window_N=np.concatenate([np.full(len(record.keys), record.window.index) for record in records]),
        labels_NT=np.concatenate([record.labels_BT for record in records]),
        weights_NT=np.concatenate([record.weights_BT for record in records]),
        scores={
            method: np.stack(
                [
                    np.concatenate([record.by_entry[entry] for record in records])
                    for entry in field.entries()
                    if entry.method == method
                ]
            )
            for method in config.methods
        },
    )


def split_windows(
    vertical: VerticalConfig, data: Data, config: ComparisonConfig
) -> tuple[Sequence[Window], Sequence[Window]]:
    """Return the windows that settings are chosen by, and those that count.

    Raises: ConfigError if there is none of either.
    """
    warmup = vertical.training.warmup_windows
    if config.tuning_windows <= warmup:
        raise ConfigError(
            f"comparison.tuning_windows is {config.tuning_windows}, but vertical model {vertical.name!r} warms up for "
            f"{warmup} windows (training.warmup_windows), so none is left to tune by; set it to {warmup + 1} or more"
        )
    tuning = data.windows[warmup : config.tuning_windows]
    counted = [w for w in data.windows[config.tuning_windows :] if w.start >= tuning[-1].end + data.label_delay]
    if not counted:
        raise ConfigError(
            f"vertical model {vertical.name!r}: no window is left to report of {len(data.windows)}, since the first "
            f"{config.tuning_windows} are for tuning and their labels are known {data.label_delay} later; lower "
            "comparison.tuning_windows, or compare on a longer log"
        )
    return tuning, counted


def entries_of(vertical: VerticalConfig, config: ComparisonConfig) -> tuple[Entry, ...]:
    """Return all models that are tried: each method with each of its settings, from each seed."""
    return tuple(
        Entry(method, Setting(weight=weight, learning_rate=learning_rate), vertical.model.seed + place)
        for method in config.methods
        for weight in ((0.0,) if method == LABEL else config.weights)
        for learning_rate in config.learning_rates
        for place in range(config.num_seeds)
    )


@dataclass(frozen=True)
class _Scores:
    """Probabilities of a window, [B, T]: of every entry, and of the control's teachers."""

    by_entry: Mapping[Entry, Floats]
    by_teacher: Mapping[Entry, Floats]


@dataclass(frozen=True)
class _Record:
    """A window as it was tested."""

    window: Window
    keys: pl.Series
    labels_BT: Floats
    weights_BT: Floats
    by_entry: Mapping[Entry, Floats]


class _Field:
    """All entries, which are tested and learn at the same times."""

    def __init__(self, vertical: VerticalConfig, data: Data, config: ComparisonConfig) -> None:
        def trainer(entry: Entry) -> Trainer:
            return make_trainer(vertical, data, entry)

        self._trainers = {entry: trainer(entry) for entry in entries_of(vertical, config)}
        self._teacher_of = {
            entry: Entry(LABEL, entry.setting.model_copy(update={"weight": 0.0}), entry.seed + config.num_seeds)
            for entry in self._trainers
            if entry.method == SELF
        }
        self._teachers = {teacher: trainer(teacher) for teacher in dict.fromkeys(self._teacher_of.values())}
        self._has_learned = False

    def entries(self) -> tuple[Entry, ...]:
        """Return those that walk on, in the order of their seeds within each method."""
        return tuple(self._trainers)

    def keep(self, chosen: Mapping[Method, Setting]) -> None:
        """Drop all entries with another setting than the one chosen for their method, and teachers without a pupil."""
        self._trainers = {
            entry: trainer for entry, trainer in self._trainers.items() if chosen[entry.method] == entry.setting
        }
        kept = {self._teacher_of[entry] for entry in self._trainers if entry.method == SELF}
        self._teachers = {teacher: trainer for teacher, trainer in self._teachers.items() if teacher in kept}

    def test(self, examples: Examples) -> _Scores:
        """Return what every entry predicts; a teacher that learned nothing yet says nothing."""
        by_teacher = {teacher: trainer.test(examples) for teacher, trainer in self._teachers.items()}
        if not self._has_learned:
            by_teacher = {teacher: np.full_like(scores_BT, np.nan) for teacher, scores_BT in by_teacher.items()}
        return _Scores({entry: trainer.test(examples) for entry, trainer in self._trainers.items()}, by_teacher)

    def learn(self, window: Window, examples: Examples, scores: _Scores, /) -> None:
        """Let every entry learn a window."""
        for entry, trainer in self._trainers.items():
            seen = examples
            if entry.method == SELF:
                seen = _taught(examples, scores.by_teacher[self._teacher_of[entry]])
            trainer.learn(window, seen, scores.by_entry[entry])
        for teacher, trainer in self._teachers.items():
            trainer.learn(window, examples, scores.by_teacher[teacher])
        self._has_learned = True


def make_trainer(vertical: VerticalConfig, data: Data, entry: Entry) -> Trainer:
    """Return an entry as it starts: the vertical model with its method, setting and seed."""
    model = vertical.model.model_copy(update={"seed": entry.seed})
    distillation = vertical.distillation.model_copy(
        update={"method": "kd" if entry.method == SELF else entry.method, "weight": entry.setting.weight}
    )
    learner = DistillationLearner(
        RankingModel(data.schema, model), distillation, teachers=(SELF,) if entry.method == SELF else data.teachers
    )
    return Trainer(learner, vertical.training.model_copy(update={"learning_rate": entry.setting.learning_rate}))


def _taught(examples: Examples, probabilities_BT: Floats) -> Examples:
    """Return examples with a teacher's pseudo-labels, whose ages method `kd` does not look at."""
    pseudo = PseudoLabels(probabilities_BT=probabilities_BT, ages_B=np.zeros(len(examples)))
    return replace(examples, pseudo={SELF: pseudo})


def _best(records: Sequence[_Record], *, name: str) -> dict[Method, Setting]:
    labels_NT, weights_NT = (
        np.concatenate([getattr(record, values) for record in records]) for values in ("labels_BT", "weights_BT")
    )
    entropies: dict[Method, dict[Setting, list[float]]] = {}
    for entry in records[0].by_entry:
        scores_NT = np.concatenate([record.by_entry[entry] for record in records])
        found = entropies.setdefault(entry.method, {}).setdefault(entry.setting, [])
        found += _entropies(scores_NT, labels_NT, weights_NT)
    if not next(iter(entropies[LABEL].values())):
        indices = ", ".join(str(record.window.index) for record in records)
        raise DataError(
            f"vertical model {name!r}: windows {indices} have no known label that is sometimes 0 and sometimes 1, so "
            "that nothing can be tuned by them; raise comparison.tuning_windows"
        )
    return {
        method: min(settings, key=lambda setting: float(np.mean(settings[setting])))
        for method, settings in entropies.items()
    }


def _entropies(scores_NT: Floats, labels_NT: Floats, weights_NT: Floats) -> list[float]:
    """Return the normalized entropy of each task that has one; infinite of scores that are no numbers."""
    found = []
    for task in range(labels_NT.shape[1]):
        known_N = ~np.isnan(labels_NT[:, task])
        scores_N, labels_N, weights_N = (values_NT[known_N, task] for values_NT in (scores_NT, labels_NT, weights_NT))
        rate = float(np.average(labels_N, weights=weights_N)) if len(labels_N) else 0.0
        if 0 < rate < 1:
            loss = float(np.average(log_losses(scores_N, labels_N), weights=weights_N))
            found.append(loss / entropy(rate) if np.isfinite(loss) else np.inf)
    return found


def _require_finite(window: Window, by_entry: Mapping[Entry, Floats], *, name: str) -> None:
    for entry, scores_BT in by_entry.items():
        if not np.isfinite(scores_BT).all():
            raise DataError(
                f"{name}: method {entry.method}'s scores with learning rate {entry.setting.learning_rate:g} and weight "
                f"{entry.setting.weight:g} are no numbers in window {window.index}: training diverged; lower "
                "comparison.learning_rates, or normalise dense features"
            )
