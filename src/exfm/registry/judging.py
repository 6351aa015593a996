"""The quality of a candidate's predictions and of the champion's, on windows that neither had learned.

The candidate's are those that it recorded before it learned each window. The champion's are its bundle's on windows
that it has not learned, and those that it recorded itself on older ones.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from exfm.artifact.manifest import Window
from exfm.artifact.storage import Ref, reading
from exfm.errors import DataError
from exfm.events.examples import ExampleTable
from exfm.metrics.intervals import Interval, bootstrap_ratio, groups_of
from exfm.metrics.quality import Floats, log_losses, quality
from exfm.models.scoring import UnshardedScorer
from exfm.registry.champion import Champion, champion_of
from exfm.registry.mlflow_registry import Registry
from exfm.registry.promotion import Judgement, TaskFigures
from exfm.registry.recorded import MIN_POSITIVES, positives
from exfm.registry.table_scores import table_scores
from exfm.schema import time_text
from exfm.tables.grid import WINDOW
from exfm.training.evaluation import predictions_of
from exfm.training.manifest import BASE_RATE, ModelManifest

CHAMPIONS = "champion."
"""Prefix of the columns with the champion's scores."""

SCORE = "score."
"""Prefix of the columns with recorded scores."""

USER = "user of the impression"
"""Column with the examples' users, whatever the log calls them; missing where the log has none."""

NUM_SAMPLES, SEED = 1_000, 0
"""Samples of the examples for an interval, and the seed by which they are drawn."""


def judge(registry: Registry, verticals: Sequence[Ref]) -> list[Judgement]:
    """Return a judgement of each vertical model: of its predictions, and of those of the champion with its name.

    It covers the windows that the model learned and the champion did not. If a task has fewer than MIN_POSITIVES
    positives there, older windows with recorded scores are added. The warm-up is left out. Every example counts once,
    by its weight.

    Raises: StorageError if a model, its examples or the registry cannot be read; DataError if a champion's features
    are not in the examples.
    """
    return [_judge(registry, vertical) for vertical in verticals]


def _judge(registry: Registry, vertical: Ref) -> Judgement:
    with reading(vertical) as folder:
        model = ModelManifest.read(folder)
    champion = champion_of(registry, model.name)
    counted = model.counted
    new = [window for window in counted if champion is None or window.start >= champion.learned_until]
    version = champion.version if champion else 0
    if not new:
        return Judgement(name=model.name, champion=version, num_new_windows=0)
    rows = [predictions_of(model, new)]
    if champion is None:
        return _judgement(model, rows, new)
    key, examples = model.feature_schema.impression_key, model.examples()
    with registry.fetching(champion.bundle) as bundle:
        scorer = UnshardedScorer.load(bundle)
        try:
            of_champion = [_champion_scores(scorer, examples, window, model) for window in new]
        except DataError as error:
            raise DataError(
                f"{model.name} v{version}, the champion, cannot score these examples: {error}; log what it needs, "
                "or remove its alias `champion`, and the next version is judged as the first"
            ) from error
    rows = [rows[0].join(pl.concat(of_champion), on=[key, WINDOW], how="left", maintain_order="left")]
    windows = list(new)
    for window in reversed(counted[: -len(new)]):
        enough = min(positives(rows, task) for task in model.feature_schema.tasks()) >= MIN_POSITIVES
        if enough:
            break
        older = _recorded(predictions_of(model, [window]), champion, key=key)
        if older is None:
            break
        rows.insert(0, older)
        windows.insert(0, window)
    users = _users(examples, windows, model)
    judgement = _judgement(model, rows, windows, of_champion=scorer.manifest.tasks, users=users)
    return judgement.model_copy(update={"champion": version, "num_new_windows": len(new)})


def _judgement(
    model: ModelManifest,
    rows: Sequence[pl.DataFrame],
    windows: Sequence[Window],
    *,
    of_champion: Sequence[str] = (),
    users: pl.DataFrame | None = None,
) -> Judgement:
    tasks, key = model.feature_schema.tasks(), model.feature_schema.impression_key
    judged, kind = pl.concat(rows, how="diagonal"), model.feature_schema.event_time.kind
    if users is not None:
        judged = judged.join(users, on=[key, WINDOW], how="left", maintain_order="left")
    return Judgement(
        name=model.name,
        num_new_windows=len(windows),
        windows=tuple(window.index for window in windows),
        first_window=time_text(windows[0].start, kind=kind),
        last_window=time_text(windows[-1].start, kind=kind),
        tasks=tuple(figures(judged, task, has_champion=task in of_champion) for task in tasks),
        missing_tasks=tuple(task for task in of_champion if task not in tasks),
    )


def figures(rows: pl.DataFrame, task: str, *, has_champion: bool) -> TaskFigures:
    """Return the quality of predictions: `score.`, `label.` and `weight.<task>`, with the champion's and base rates.

    A NaN label is unknown, and its row does not count. Rows of one USER in one WINDOW are one group of the interval.
    """
    known = rows.filter(pl.col(f"label.{task}").is_not_nan())
    scores, labels, weights = (known[f"{kind}.{task}"].to_numpy() for kind in ("score", "label", "weight"))
    own = quality(scores, labels, weights)
    champion = quality(known[f"{CHAMPIONS}{task}"].to_numpy(), labels, weights) if has_champion else None
    excess, error = _excess_loss(scores, labels, weights, known[f"{BASE_RATE}.{task}"].to_numpy())
    return TaskFigures(
        task=task,
        num_examples=own.num_examples,
        num_positives=int((labels > 0).sum()),
        normalized_entropy=own.normalized_entropy,
        calibration=own.calibration,
        champion_entropy=champion.normalized_entropy if champion else None,
        champion_calibration=champion.calibration if champion else None,
        ne_increase=_ne_increase(known, task) if champion and champion.normalized_entropy else None,
        excess_loss=excess,
        excess_loss_error=error,
    )


def _ne_increase(known: pl.DataFrame, task: str) -> Interval | None:
    """Return a share of the champion's NE: that of its loss, because both NE have the same divisor."""
    labels, weights = known[f"label.{task}"].to_numpy(), known[f"weight.{task}"].to_numpy().astype(np.float64)
    own, champions = (
        weights * log_losses(known[f"{scores}{task}"].to_numpy(), labels) for scores in (SCORE, CHAMPIONS)
    )
    ratio = bootstrap_ratio(
        own - champions,
        champions,
        window_N=known[WINDOW].to_numpy(),
        group_N=groups_of(known[USER] if USER in known.columns else None, num_examples=known.height),
        num_samples=NUM_SAMPLES,
        seed=SEED,
    )
    return ratio.interval()


def _excess_loss(scores: Floats, labels: Floats, weights: Floats, rates: Floats) -> tuple[float | None, float | None]:
    weights = weights.astype(np.float64)
    if len(labels) < 2 or not weights.sum():
        return None, None
    differences = log_losses(scores, labels) - log_losses(rates, labels)
    mean = float(np.average(differences, weights=weights))
    error = float(np.sqrt((weights**2 * (differences - mean) ** 2).sum()) / weights.sum())
    return mean, error


def _champion_scores(
    scorer: UnshardedScorer, examples: ExampleTable, window: Window, model: ModelManifest
) -> pl.DataFrame:
    """Return what the champion's bundle scores one window's examples of a model's domains, with key and WINDOW."""
    key, schema = model.feature_schema.impression_key, scorer.manifest.feature_schema
    columns = [name for name in schema.feature_names() if name in examples.columns]
    frame = examples.read(window, domains=model.domains, columns=[key, *columns])
    scores_BT = table_scores(scorer, frame.to_arrow())
    if not np.isfinite(scores_BT).all():
        raise DataError(f"a score in window {window.index} is not a number")
    return frame.select(key).with_columns(
        pl.lit(window.index).alias(WINDOW),
        *(
            pl.Series(f"{CHAMPIONS}{task}", scores_BT[:, column], dtype=pl.Float32)
            for column, task in enumerate(scorer.manifest.tasks)
        ),
    )


def _users(examples: ExampleTable, windows: Sequence[Window], model: ModelManifest) -> pl.DataFrame | None:
    """Return the users of the examples of these windows, with key and WINDOW; None if the log has no users."""
    key, user = model.feature_schema.impression_key, model.feature_schema.user
    if user not in examples.columns:
        return None
    return pl.concat(
        examples.read(window, domains=model.domains, columns=list({key, user})).select(
            key, pl.col(user).alias(USER), pl.lit(window.index).alias(WINDOW)
        )
        for window in windows
    )


def _recorded(rows: pl.DataFrame, champion: Champion, *, key: str) -> pl.DataFrame | None:
    """Return a window's rows with the champion's recorded scores; None if any row has none."""
    recorded = champion.recorded
    if key not in recorded.columns or recorded.schema[key] != rows.schema[key]:
        return None
    scores = {name: f"{CHAMPIONS}{name.removeprefix(SCORE)}" for name in recorded.columns if name.startswith(SCORE)}
    joined = rows.join(recorded.select(key, *scores).rename(scores), on=key, how="inner", maintain_order="left")
    return joined if joined.height == rows.height else None
