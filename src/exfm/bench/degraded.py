"""`exfm bench degraded`: what a bundle's predictions are worth while a shard is away, and fallback rows stand in."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.manifest import Window
from exfm.artifact.storage import Ref, reading
from exfm.errors import DataError
from exfm.events.examples import Examples, ExamplesManifest, examples_of
from exfm.events.partitions import read_partition
from exfm.metrics import Quality, quality
from exfm.models.scoring import UnshardedScorer

EXAMPLES_AT_ONCE = 8_192
"""Examples that are scored at a time."""


@dataclass(frozen=True)
class Loss:
    """What is left of the quality without some shards."""

    shards: tuple[int, ...]
    tables: tuple[str, ...]
    """Those with rows on these shards."""
    qualities: Mapping[str, Quality]
    """By task."""


def bench_degraded(console: Console, bundle: Path, *, examples: Ref, num_examples: int) -> None:
    """Measure and print.

    Raises: as `losses`.
    """
    found = losses(bundle, examples=examples, num_examples=num_examples)
    console.print(_table(found))
    first = next(iter(found[0].qualities.values()))
    console.print(
        f"on {first.num_examples:,} examples, the newest of its domains; the model has learned from them, so what "
        "counts is the difference",
        soft_wrap=True,
    )


def losses(bundle: Path, *, examples: Ref, num_examples: int) -> list[Loss]:
    """Return the quality of a bundle that is complete, then without each shard, then without any.

    It is told on the newest windows of examples, as many as hold `num_examples` of the bundle's domains.

    Raises: BundleError if the bundle has no fallback rows; StorageError, DataError if there are no such examples.
    """
    scorer = UnshardedScorer.load(bundle)
    manifest = scorer.manifest
    with reading(examples) as dataset:
        windows = ExamplesManifest.read(dataset).windows
        parts = list(_newest(dataset, windows, manifest, num_examples=num_examples))
    every = tuple(range(manifest.plan.num_shards))
    missing = dict.fromkeys([(), *((shard,) for shard in every), every])  # one shard is all of them
    return [_loss(scorer, parts, without=without) for without in missing]


def _loss(scorer: UnshardedScorer, parts: Sequence[Examples], *, without: Collection[int]) -> Loss:
    batches = [batch for part in parts for batch in part.minibatches(EXAMPLES_AT_ONCE)]
    scores_BT = np.concatenate([scorer.scores(batch.batches, without=without) for batch in batches])
    labels_BT = np.concatenate([batch.labels_BT for batch in batches])
    weights_BT = np.concatenate([batch.weights_BT for batch in batches])
    held = {slice_.table for shard in without for slice_ in scorer.manifest.plan.slices_on(shard)}
    return Loss(
        shards=tuple(without),
        tables=tuple(sorted(held)),
        qualities={
            name: quality(scores_BT[:, task], labels_BT[:, task], weights_BT[:, task])
            for task, name in enumerate(scorer.manifest.tasks)
        },
    )


def _newest(
    dataset: Path, windows: Sequence[Window], manifest: BundleManifest, *, num_examples: int
) -> Iterator[Examples]:
    schema = manifest.feature_schema
    domains = list(filter(None, manifest.lineage.get("domains", "").split(", ")))
    num_before = 0
    for window in reversed(windows):
        frame = read_partition(dataset, window)
        if domains:
            frame = frame.filter(frame[schema.domain].is_in(domains))
        if len(frame):
            yield examples_of(frame, schema)
        num_before += len(frame)
        if num_before >= num_examples:
            return
    if not num_before:
        raise DataError(f"{dataset}: no example of domain {', '.join(domains) or '(any)'}, which the bundle is for")


def _table(found: Sequence[Loss]) -> Table:
    complete = found[0].qualities
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("missing", "tables"):
        table.add_column(column)
    for task in complete:
        for column in (f"{task}\nNE", "more", "AUC", "calibration"):
            table.add_column(column, justify="right", no_wrap=True)
    for loss in found:
        cells = []
        for task, quality_of in loss.qualities.items():
            more = _ratio(quality_of.normalized_entropy, complete[task].normalized_entropy)
            figures = (quality_of.normalized_entropy, quality_of.auc, quality_of.calibration)
            ne, auc, calibration = ("" if figure is None else f"{figure:.4f}" for figure in figures)
            cells += [ne, more if loss.shards else "", auc, calibration]
        table.add_row(_name(loss, found), ", ".join(loss.tables), *cells)
    return table


def _name(loss: Loss, found: Sequence[Loss]) -> str:
    if not loss.shards:
        return "nothing"
    return "all shards" if loss is found[-1] else f"shard {loss.shards[0]}"


def _ratio(found: float | None, complete: float | None) -> str:
    return "" if found is None or not complete else f"{found / complete - 1:+.1%}"
