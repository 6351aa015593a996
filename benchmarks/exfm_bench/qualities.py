"""How good a bundle's predictions are on the newest examples, by how it is served."""

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
from rich.table import Table

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.storage import reading, ref_to
from exfm.errors import DataError
from exfm.events.examples import Examples, ExampleTable
from exfm.metrics.quality import Quality, quality
from exfm.models.dense_part import Scores
from exfm.models.scoring import UnshardedScorer
from exfm.training.data import Data
from exfm.training.manifest import ModelManifest

EXAMPLES_AT_ONCE = 8_192
"""Examples that are scored at a time."""


class NewestExamples:
    """The newest windows of examples, as many as hold a number of those of a bundle's domains."""

    def __init__(self, examples: ExampleTable, manifest: BundleManifest, *, num_examples: int) -> None:
        """Read them.

        Raises: StorageError, DataError if there are none.
        """
        parts = _newest(examples, manifest, num_examples=num_examples)
        self._tasks = manifest.tasks
        self._batches = [batch for part in parts for batch in part.minibatches(EXAMPLES_AT_ONCE)]

    def scores(self, scorer: UnshardedScorer, *, without: Collection[int] = ()) -> Scores:
        """Return what a bundle scores them, some of its shards being away; shape [B, T]."""
        return np.concatenate([scorer.scores(batch.batches, without=without) for batch in self._batches])

    def qualities(self, scores_BT: Scores) -> dict[str, Quality]:
        """Return how good scores are, by task."""
        labels_BT = np.concatenate([batch.labels_BT for batch in self._batches])
        weights_BT = np.concatenate([batch.weights_BT for batch in self._batches])
        return {
            name: quality(scores_BT[:, task], labels_BT[:, task], weights_BT[:, task])
            for task, name in enumerate(self._tasks)
        }


def examples_of_model(uri: str) -> ExampleTable:
    """Return the examples that the model in a folder or at a URL learned from.

    Raises: StorageError if the model, or its table of examples, is not there.
    """
    with reading(ref_to(uri)) as folder:
        return ModelManifest.read(folder).examples()


def about(qualities: Mapping[str, Quality]) -> str:
    """Return what a reader must know of the examples."""
    first = next(iter(qualities.values()))
    return (
        f"on {first.num_examples:,} examples, the newest of its domains; the model has learned from them, so what "
        "counts is the difference"
    )


def add_columns(table: Table, tasks: Iterable[str]) -> None:
    """Add the columns of each task's cells."""
    for task in tasks:
        for head in (f"{task}\nNE", "more", "AUC", "calibration"):
            table.add_column(head, justify="right", no_wrap=True)


def cells(found: Quality, first: Quality | None, *, digits: int) -> list[str]:
    """Return the cells of a task; how much more NE it has than `first` is in per cent, with so many digits."""
    figures = (found.normalized_entropy, found.auc, found.calibration)
    ne, auc, calibration = ("" if figure is None else f"{figure:.4f}" for figure in figures)
    return [ne, "" if first is None else _more(found, first, digits), auc, calibration]


def _more(found: Quality, first: Quality, digits: int) -> str:
    if found.normalized_entropy is None or not first.normalized_entropy:
        return ""
    return f"{found.normalized_entropy / first.normalized_entropy - 1:+.{digits}%}"


def _newest(examples: ExampleTable, manifest: BundleManifest, *, num_examples: int) -> Iterator[Examples]:
    domains = list(filter(None, manifest.lineage.get("domains", "").split(", ")))
    data = Data(examples, manifest.feature_schema, domains=domains)
    num_before = 0
    for window in reversed(data.windows):
        found = data.read(window)
        if len(found):
            yield found
        num_before += len(found)
        if num_before >= num_examples:
            return
    if not num_before:
        raise DataError(
            f"there is no example of domain {', '.join(domains) or '(any)'}, which the bundle is for; name the model "
            "that it was made from"
        )
