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
from exfm.errors import ConfigError, DataError
from exfm.evaluation.comparison import ModelCost
from exfm.evaluation.config import ComparisonConfig, Setting
from exfm.evaluation.field import Contender, Entry, Field, Scores
from exfm.evaluation.first_seen import Newness, SeenValues
from exfm.evaluation.teachers import Teachers
from exfm.events.examples import Examples, Floats, examples_of
from exfm.metrics.quality import normalized_entropy
from exfm.training.data import Data
from exfm.training.loop import OnWindow, walk_windows


@dataclass(frozen=True)
class Walked:
    """What was predicted in the windows that count, each before it was learned."""

    windows: tuple[Window, ...]
    chosen: Mapping[Contender, Setting]
    """What the tuning windows chose."""
    keys: pl.Series
    """Keys of the impressions, in the order of the windows; length N."""
    users: pl.Series | None
    """The user of each impression, null where it is not known; None: the log has none."""
    window_N: npt.NDArray[np.int64]
    """Index of each impression's window."""
    labels_NT: Floats
    weights_NT: Floats
    scores: Mapping[Contender, Floats]
    """Probabilities; [S, N, T] of each contender."""
    pseudo: Mapping[str, Floats]
    """Pseudo-labels of each teacher, [N, T]; NaN where it had none."""
    references: Mapping[str, Floats]
    """Probabilities of each reference line, [N, T]."""
    costs: Mapping[Contender, ModelCost]
    """The cost of one model over all windows, mean over seeds."""
    newness: Mapping[str, Newness]
    """Whether each impression's id is new, known or missing, [N], by feature of `cold_start`."""


def walk(
    vertical: VerticalConfig,
    data: Data,
    config: ComparisonConfig,
    teachers: Teachers,
    *,
    on_window: OnWindow = lambda num_done, num_windows: None,
) -> Walked:
    """Return what every contender predicted of a vertical model's windows, each with the setting that is its best.

    All settings walk over the first windows, by which each contender's best one is chosen: least normalized entropy,
    mean over tasks and seeds. Only that one goes on. The windows that count begin when the labels of those are known.

    Raises: ConfigError if no window is left for tuning or counting; DataError for unusable examples, or if training
    diverged.
    """
    torch.set_num_threads(vertical.training.torch_threads)
    tuning, counted = split_windows(vertical, data, config)
    field = Field(vertical, data, config, teachers)
    records: list[_Record] = []
    chosen = {} if tuning else {entry.contender: entry.setting for entry in field.entries()}
    num_tested = 0
    seen = SeenValues(config.cold_start)
    newness: dict[int, dict[str, Newness]] = {}
    users: dict[int, pl.Series] = {}

    def read(window: Window) -> Examples:
        frame = data.examples.read(window, domains=data.domains)  # teachers read columns that the model does not
        newness[window.index] = seen.add(frame)
        if data.log_schema.user:
            users[window.index] = frame[data.log_schema.user]
        examples = examples_of(frame, data.schema, teachers=data.teachers)
        return replace(examples, pseudo=teachers.add_to(examples, window, frame))

    def keep(window: Window, examples: Examples, scores: Scores) -> None:
        nonlocal chosen, num_tested
        if window in tuning or window in counted:
            pseudo = {
                teacher: teachers.pseudo_labels(examples, teacher).probabilities_BT for teacher in teachers.taught_by
            }
            records.append(
                _Record(
                    window,
                    keys=examples.keys,
                    labels_BT=examples.labels_BT,
                    weights_BT=examples.weights_BT,
                    by_entry=scores.by_entry,
                    pseudo=pseudo,
                    by_line=scores.by_line,
                )
            )
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
        read=read,
        label_delay=data.label_delay,
        known_until=data.known_until,
        on_tested=keep,
        on_trained=lambda window, examples: None,
        reads_ahead=False,  # trainers' CPU time is measured
    )
    return Walked(
        windows=tuple(counted),
        chosen=chosen,
        keys=pl.concat([record.keys for record in records]),
        users=pl.concat([users[window.index] for window in counted]) if users else None,
        window_N=np.concatenate([np.full(len(record.keys), record.window.index) for record in records]),
        labels_NT=np.concatenate([record.labels_BT for record in records]),
        weights_NT=np.concatenate([record.weights_BT for record in records]),
        scores={
            contender: np.stack(
                [
                    np.concatenate([record.by_entry[entry] for record in records])
                    for entry in field.entries()
                    if entry.contender == contender
                ]
            )
            for contender in chosen
        },
        pseudo={
            teacher: np.concatenate([record.pseudo[teacher] for record in records]) for teacher in teachers.taught_by
        },
        references={line: np.concatenate([record.by_line[line] for record in records]) for line in records[0].by_line},
        costs=field.costs(),
        newness={
            feature: np.concatenate([newness[window.index][feature] for window in counted])
            for feature in config.cold_start
        },
    )


def split_windows(
    vertical: VerticalConfig, data: Data, config: ComparisonConfig
) -> tuple[Sequence[Window], Sequence[Window]]:
    """Return the windows that settings are chosen by, none if there is nothing to choose, and those that count.

    Raises: ConfigError if there is none of either.
    """
    warmup = vertical.training.warmup_windows
    if not config.is_tuned:
        if len(data.windows) <= warmup:
            raise ConfigError(
                f"vertical model {vertical.name!r}: no window is left to report of {len(data.windows)}, since it warms "
                f"up for {warmup} (training.warmup_windows); lower that, or compare on a longer log"
            )
        return (), data.windows[warmup:]
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


@dataclass(frozen=True)
class _Record:
    """A window as it was tested."""

    window: Window
    keys: pl.Series
    labels_BT: Floats
    weights_BT: Floats
    by_entry: Mapping[Entry, Floats]
    pseudo: Mapping[str, Floats]
    """Pseudo-labels of each teacher."""
    by_line: Mapping[str, Floats]


def _best(records: Sequence[_Record], *, name: str) -> dict[Contender, Setting]:
    labels_NT, weights_NT = (
        np.concatenate([getattr(record, values) for record in records]) for values in ("labels_BT", "weights_BT")
    )
    entropies: dict[Contender, dict[Setting, list[float]]] = {}
    for entry in records[0].by_entry:
        scores_NT = np.concatenate([record.by_entry[entry] for record in records])
        found = entropies.setdefault(entry.contender, {}).setdefault(entry.setting, [])
        found += _entropies(scores_NT, labels_NT, weights_NT)
    if not next(iter(next(iter(entropies.values())).values())):
        indices = ", ".join(str(record.window.index) for record in records)
        raise DataError(
            f"vertical model {name!r}: windows {indices} have no known label that is sometimes 0 and sometimes 1, so "
            "that nothing can be tuned by them; raise comparison.tuning_windows"
        )
    return {
        contender: min(settings, key=lambda setting: float(np.mean(settings[setting])))
        for contender, settings in entropies.items()
    }


def _entropies(scores_NT: Floats, labels_NT: Floats, weights_NT: Floats) -> list[float]:
    """Return the normalized entropy of each task that has one; infinite of scores that are no numbers."""
    entropies = (
        normalized_entropy(scores_NT[:, task], labels_NT[:, task], weights_NT[:, task])
        for task in range(labels_NT.shape[1])
    )
    return [value if np.isfinite(value) else np.inf for value in entropies if value is not None]


def _require_finite(window: Window, by_entry: Mapping[Entry, Floats], *, name: str) -> None:
    for entry, scores_BT in by_entry.items():
        if not np.isfinite(scores_BT).all():
            raise DataError(
                f"vertical model {name!r}: scores of method {entry.contender.method} by teacher "
                f"{entry.contender.teacher!r}, with learning rate {entry.setting.learning_rate:g} and weight "
                f"{entry.setting.weight:g}, are no numbers in window {window.index}: training diverged; lower "
                "comparison.learning_rates (if empty, the vertical model's training.learning_rate), or normalise dense "
                "features"
            )
