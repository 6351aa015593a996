"""`exfm bench precision`: how good and how fast a bundle's predictions are in each precision of its dense layers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from exfm.artifact.bundle import DENSE_FILE, GOLDEN_REQUEST, BundleManifest
from exfm.artifact.manifest import read_json
from exfm.artifact.plan import Encoding
from exfm.errors import BundleError, ConfigError
from exfm.events.examples import ExampleTable
from exfm.features.batch import NetBatches
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.metrics.quality import Quality
from exfm.models.config import Precision
from exfm.models.scoring import UnshardedScorer
from exfm_bench.machine import processor
from exfm_bench.qualities import NewestExamples, about, add_columns, cells

OTHERS: tuple[Precision, ...] = ("bf16", "int8")

NUM_TURNS = 50
"""Turns that count; in each, every precision scores the golden query once."""
NUM_WARMUP = 5
"""Turns of the warm-up, before those that count."""


@dataclass(frozen=True)
class Found:
    """Quality and time of one precision of dense layers, with one bundle's tables."""

    precision: Precision
    tables: Encoding
    """Encoding of the bundle's tables."""
    largest_shift: float
    """Largest difference of an example's score from that of the first precision."""
    time_ratio: float
    """Time of the golden query, over its time in the first precision."""
    qualities: Mapping[str, Quality]
    """Quality by task."""


def bench_precision(
    console: Console, bundle: Path, *, examples: ExampleTable, num_examples: int, beside: Path | None = None
) -> None:
    """Measure and print; raises as `measured`."""
    found, missing = measured(bundle, examples=examples, num_examples=num_examples, beside=beside)
    console.print(_table(found))
    for why in missing:
        console.print(why, soft_wrap=True)
    console.print(about(found[0].qualities), soft_wrap=True)
    console.print(
        f"time: of the golden query in one process of {torch.get_num_threads()} threads, lookups included, on "
        f"{processor()}",
        soft_wrap=True,
    )


def measured(
    bundle: Path, *, examples: ExampleTable, num_examples: int, beside: Path | None = None
) -> tuple[list[Found], list[str]]:
    """Return what was found of each precision, fp32 first, and why others are not available here.

    With another bundle of the model `beside`, such as one whose tables are in fp32, that one in fp32 is the first.

    Raises: BundleError if the bundle has no golden query; ConfigError if the other is of another model;
    StorageError, DataError if there are no examples of its domains.
    """
    exact = UnshardedScorer.load(bundle)
    manifest = exact.manifest
    if GOLDEN_REQUEST not in manifest.files:
        raise BundleError(f"{bundle} has no golden query to time; export it again")
    golden = encode_request(tensors_from_json(read_json(bundle / GOLDEN_REQUEST)), manifest.feature_schema)
    scorers: list[tuple[Precision, UnshardedScorer]] = [("fp32", exact)]
    if beside is not None:
        scorers.insert(0, ("fp32", _of_same_model(beside, bundle, manifest)))
    missing = []
    for precision in OTHERS:
        try:
            scorers.append((precision, UnshardedScorer(bundle, manifest, precision=precision)))
        except ConfigError as error:
            missing.append(str(error))
    newest = NewestExamples(examples, manifest, num_examples=num_examples)
    seconds = _seconds([scorer for _, scorer in scorers], golden)
    scores = [newest.scores(scorer) for _, scorer in scorers]
    return [
        Found(
            precision=precision,
            tables=scorer.manifest.plan.encoding,
            largest_shift=float(np.abs(scores_BT - scores[0]).max()),
            time_ratio=of_scorer_s / seconds[0],
            qualities=newest.qualities(scores_BT),
        )
        for (precision, scorer), scores_BT, of_scorer_s in zip(scorers, scores, seconds, strict=True)
    ], missing


def _of_same_model(beside: Path, bundle: Path, manifest: BundleManifest) -> UnshardedScorer:
    scorer = UnshardedScorer.load(beside)
    other = scorer.manifest
    if other.feature_schema != manifest.feature_schema or other.files[DENSE_FILE] != manifest.files[DENSE_FILE]:
        raise ConfigError(f"{beside} and {bundle} are not of one model: dense layers or features differ")
    return scorer


def _seconds(scorers: Sequence[UnshardedScorer], golden: NetBatches) -> list[float]:
    """Return the median time of a golden query; all take turns, so that a slow moment is not one's."""
    taken: list[list[float]] = [[] for _ in scorers]
    for turn in range(NUM_WARMUP + NUM_TURNS):
        for scorer, of_scorer in zip(scorers, taken, strict=True):
            began_s = time.perf_counter()
            scorer.scores(golden)
            if turn >= NUM_WARMUP:
                of_scorer.append(time.perf_counter() - began_s)
    return [float(np.median(of_scorer)) for of_scorer in taken]


def _table(found: Sequence[Found]) -> Table:
    first = found[0].qualities
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("dense_precision")
    table.add_column("tables")
    for head in ("time", "largest shift"):
        table.add_column(head, justify="right", no_wrap=True)
    add_columns(table, first)
    for one in found:
        of_first = {} if one is found[0] else first
        every = [cells(of_task, of_first.get(task), digits=3) for task, of_task in one.qualities.items()]
        table.add_row(one.precision, one.tables, f"{one.time_ratio:.2f}", f"{one.largest_shift:.1e}", *chain(*every))
    return table
