"""The quality of a candidate's predictions and of the champion's, on windows that neither had learned.

The candidate's are those that it recorded before it learned each window. The champion's are its bundle's on windows
that it has not learned, and those that it recorded itself on older ones.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from math import nan
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from exfm.artifact.manifest import Window
from exfm.artifact.storage import Ref, reading
from exfm.errors import DataError
from exfm.events.examples import ExamplesManifest
from exfm.events.partitions import read_partition
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.metrics import quality
from exfm.models.scoring import UnshardedScorer
from exfm.registry.champion import Champion, champion_of
from exfm.registry.mlflow_registry import Registry
from exfm.registry.promotion import Judgement, TaskFigures
from exfm.registry.recorded import MIN_POSITIVES, learned_windows, positives
from exfm.training.manifest import PREDICTIONS, ModelManifest

Doubles = npt.NDArray[np.float64]

EXAMPLES_AT_ONCE = 8_192
"""Examples that the champion scores at a time."""

CHAMPIONS = "champion."
"""Prefix of the columns with the champion's scores."""

SCORE = "score."
"""Prefix of the columns with recorded scores."""

BASE_RATE = "base_rate."
"""Prefix of the columns with the base rate of the windows before."""


def judge(registry: Registry, verticals: Sequence[Ref]) -> list[Judgement]:
    """Return a judgement of each vertical model: of its predictions, and of those of the champion with its name.

    It covers the windows that the model learned and the champion did not. If a task has fewer than MIN_POSITIVES
    positives there, older windows with recorded scores are added. The warm-up is left out. Every example counts once,
    by its weight.

    Raises: StorageError if a model, its examples or the registry cannot be read; DataError if a champion's features
    are not in the examples.
    """
    with ExitStack() as opened:
        dataset_of = cache(lambda examples: opened.enter_context(reading(examples)))  # models share their examples
        return [_judge(registry, vertical, dataset_of) for vertical in verticals]


def _judge(registry: Registry, vertical: Ref, dataset_of: Callable[[Ref], Path]) -> Judgement:
    with reading(vertical) as folder:
        model = ModelManifest.read(folder)
        champion = champion_of(registry, model.name)
        counted = learned_windows(model)[model.training.warmup_windows :]
        new = [window for window in counted if champion is None or window.start >= champion.learned_until]
        version = champion.version if champion else 0
        if not new:
            return Judgement(name=model.name, champion=version, num_new_windows=0)
        rows_of = _candidate_rows(folder, model)
        if champion is None:
            return _judgement(model, [rows_of(window) for window in new], new)
        dataset = dataset_of(model.inputs["examples"])
        with registry.fetching(champion.bundle) as bundle:
            scorer = UnshardedScorer.load(bundle)
            try:
                rows = [
                    rows_of(window).join(
                        _champion_scores(scorer, dataset, window, model),
                        on=model.feature_schema.impression_key,
                        how="left",
                        maintain_order="left",
                    )
                    for window in new
                ]
            except DataError as error:
                raise DataError(
                    f"{model.name} v{version}, the champion, cannot score these examples: {error}; log what it needs, "
                    "or remove its alias `champion`, and the next version is judged as the first"
                ) from error
        windows = list(new)
        for window in reversed(counted[: -len(new)]):
            enough = min(positives(rows, task) for task in model.feature_schema.tasks()) >= MIN_POSITIVES
            older = None if enough else _recorded(rows_of(window), champion, key=model.feature_schema.impression_key)
            if older is None:
                break
            rows.insert(0, older)
            windows.insert(0, window)
        judgement = _judgement(model, rows, windows, of_champion=scorer.manifest.tasks)
        return judgement.model_copy(update={"champion": version, "num_new_windows": len(new)})


def _judgement(
    model: ModelManifest, rows: Sequence[pl.DataFrame], windows: Sequence[Window], *, of_champion: Sequence[str] = ()
) -> Judgement:
    tasks = model.feature_schema.tasks()
    judged = pl.concat(rows, how="diagonal")
    return Judgement(
        name=model.name,
        num_new_windows=len(windows),
        windows=tuple(window.index for window in windows),
        tasks=tuple(figures(judged, task, has_champion=task in of_champion) for task in tasks),
        missing_tasks=tuple(task for task in of_champion if task not in tasks),
    )


def figures(rows: pl.DataFrame, task: str, *, has_champion: bool) -> TaskFigures:
    """Return the quality of predictions: `score.`, `label.` and `weight.<task>`, with the champion's and base rates.

    A NaN label is unknown, and its row does not count; a NaN base rate has no window before.
    """
    known = rows.filter(pl.col(f"label.{task}").is_not_nan())
    scores, labels, weights = (known[f"{kind}.{task}"].to_numpy() for kind in ("score", "label", "weight"))
    own = quality(scores, labels, weights)
    champion = quality(known[f"{CHAMPIONS}{task}"].to_numpy(), labels, weights) if has_champion else None
    excess, error = _excess_loss(scores, labels, weights, known[f"{BASE_RATE}{task}"].to_numpy())
    return TaskFigures(
        task=task,
        num_examples=own.num_examples,
        num_positives=int((labels > 0).sum()),
        normalized_entropy=own.normalized_entropy,
        calibration=own.calibration,
        champion_entropy=champion.normalized_entropy if champion else None,
        champion_calibration=champion.calibration if champion else None,
        excess_loss=excess,
        excess_loss_error=error,
    )


def _excess_loss(
    scores: Doubles, labels: Doubles, weights: Doubles, rates: Doubles
) -> tuple[float | None, float | None]:
    has_rate = ~np.isnan(rates)
    scores, labels, weights, rates = (
        values[has_rate].astype(np.float64) for values in (scores, labels, weights, rates)
    )
    if len(labels) < 2 or not weights.sum():
        return None, None
    differences = _log_loss(scores, labels) - _log_loss(rates, labels)
    mean = float(np.average(differences, weights=weights))
    error = float(np.sqrt((weights**2 * (differences - mean) ** 2).sum()) / weights.sum())
    return mean, error


def _log_loss(probabilities: Doubles, labels: Doubles) -> Doubles:
    smallest = np.finfo(np.float32).eps
    bounded = probabilities.clip(smallest, 1 - smallest)
    loss: Doubles = -np.where(labels > 0, np.log(bounded), np.log1p(-bounded))
    return loss


def _candidate_rows(folder: Path, model: ModelManifest) -> Callable[[Window], pl.DataFrame]:
    """Return a function from a window to its recorded predictions, with the base rates of all windows before it.

    The base rate of the first window is NaN.
    """
    tasks = model.feature_schema.tasks()
    positive, total = dict.fromkeys(tasks, 0.0), dict.fromkeys(tasks, 0.0)
    rates: dict[int, dict[str, float]] = {}
    for window in learned_windows(model):
        rates[window.index] = {  # half a positive more, so that no rate is 0
            task: (positive[task] + 0.5) / (total[task] + 1) if total[task] else nan for task in tasks
        }
        names = [f"{kind}.{task}" for task in tasks for kind in ("label", "weight")]
        rows = read_partition(folder / PREDICTIONS, window, columns=names)
        for task in tasks:
            known = rows.filter(pl.col(f"label.{task}").is_not_nan())
            weights = known[f"weight.{task}"].to_numpy().astype(np.float64)
            positive[task] += float(weights @ known[f"label.{task}"].to_numpy())
            total[task] += float(weights.sum())

    def rows_of(window: Window) -> pl.DataFrame:
        of_window = rates[window.index]
        return read_partition(folder / PREDICTIONS, window).with_columns(
            pl.lit(rate).alias(f"{BASE_RATE}{task}") for task, rate in of_window.items()
        )

    return rows_of


def _champion_scores(scorer: UnshardedScorer, dataset: Path, window: Window, model: ModelManifest) -> pl.DataFrame:
    """Return what the champion's bundle scores one window's examples of a model's domains, with their keys."""
    log_schema, schema = ExamplesManifest.read(dataset).feature_schema, scorer.manifest.feature_schema
    frame = read_partition(dataset, window)
    if model.domains:
        frame = frame.filter(pl.col(log_schema.domain).is_in(list(model.domains)))
    parts = [frame[start : start + EXAMPLES_AT_ONCE] for start in range(0, frame.height, EXAMPLES_AT_ONCE)]
    scores = [scorer.scores(encode_examples(raw_columns(part.to_arrow(), schema), schema)) for part in parts]
    scores_BT = np.concatenate(scores) if scores else np.empty((0, len(scorer.manifest.tasks)), np.float32)
    if not np.isfinite(scores_BT).all():
        raise DataError(f"a score in window {window.index} is not a number")
    return frame.select(log_schema.impression_key).with_columns(
        pl.Series(f"{CHAMPIONS}{task}", scores_BT[:, column], dtype=pl.Float32)
        for column, task in enumerate(scorer.manifest.tasks)
    )


def _recorded(rows: pl.DataFrame, champion: Champion, *, key: str) -> pl.DataFrame | None:
    """Return a window's rows with the champion's recorded scores; None if any row has none."""
    recorded = champion.recorded
    if key not in recorded.columns or recorded.schema[key] != rows.schema[key]:
        return None
    scores = {name: f"{CHAMPIONS}{name.removeprefix(SCORE)}" for name in recorded.columns if name.startswith(SCORE)}
    joined = rows.join(recorded.select(key, *scores).rename(scores), on=key, how="inner", maintain_order="left")
    return joined if joined.height == rows.height else None
