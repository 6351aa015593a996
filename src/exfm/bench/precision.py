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

from exfm.artifact.bundle import GOLDEN_REQUEST
from exfm.artifact.manifest import read_json
from exfm.artifact.storage import Ref
from exfm.bench.machine import processor
from exfm.bench.qualities import NewestExamples, about, add_columns, cells
from exfm.errors import BundleError, ConfigError
from exfm.features.batch import NetBatches
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.metrics import Quality
from exfm.models.config import Precision
from exfm.models.scoring import UnshardedScorer

OTHERS: tuple[Precision, ...] = ("bf16", "int8")

NUM_TURNS = 50
"""In each of which every precision scores the golden request once."""
NUM_WARMUP = 5
"""Turns before that do not count."""


@dataclass(frozen=True)
class Found:
    """Of one precision."""

    precision: Precision
    largest_shift: float
    """Of an example's score from the one in fp32."""
    time_ratio: float
    """Time that the golden request takes, over that in fp32."""
    qualities: Mapping[str, Quality]
    """By task."""


def bench_precision(console: Console, bundle: Path, *, examples: Ref, num_examples: int) -> None:
    """Measure and print.

    Raises: as `measured`.
    """
    found, missing = measured(bundle, examples=examples, num_examples=num_examples)
    console.print(_table(found))
    for why in missing:
        console.print(why, soft_wrap=True)
    console.print(about(found[0].qualities), soft_wrap=True)
    console.print(
        f"time: of the golden request in one process of {torch.get_num_threads()} threads, lookups included, on "
        f"{processor()}",
        soft_wrap=True,
    )


def measured(bundle: Path, *, examples: Ref, num_examples: int) -> tuple[list[Found], list[str]]:
    """Return what was found of each precision, fp32 first, and why others cannot be had here.

    Raises: BundleError if the bundle has no golden request; StorageError, DataError if there are no examples of its
    domains.
    """
    exact = UnshardedScorer.load(bundle)
    manifest = exact.manifest
    if GOLDEN_REQUEST not in manifest.files:
        raise BundleError(f"{bundle} has no golden request, of which time could be taken; export it again")
    golden = encode_request(tensors_from_json(read_json(bundle / GOLDEN_REQUEST)), manifest.feature_schema)
    scorers: dict[Precision, UnshardedScorer] = {"fp32": exact}
    missing = []
    for precision in OTHERS:
        try:
            scorers[precision] = UnshardedScorer(bundle, manifest, precision=precision)
        except ConfigError as error:
            missing.append(str(error))
    newest = NewestExamples(examples, manifest, num_examples=num_examples)
    seconds = _seconds(scorers, golden)
    scores = {precision: newest.scores(scorer) for precision, scorer in scorers.items()}
    return [
        Found(
            precision=precision,
            largest_shift=float(np.abs(scores_BT - scores["fp32"]).max()),
            time_ratio=seconds[precision] / seconds["fp32"],
            qualities=newest.qualities(scores_BT),
        )
        for precision, scores_BT in scores.items()
    ], missing


def _seconds(scorers: Mapping[Precision, UnshardedScorer], golden: NetBatches) -> dict[Precision, float]:
    """Return the median time of a golden request; all take turns, so that a slow moment is not one's."""
    taken: dict[Precision, list[float]] = {precision: [] for precision in scorers}
    for turn in range(NUM_WARMUP + NUM_TURNS):
        for precision, scorer in scorers.items():
            began_s = time.perf_counter()
            scorer.scores(golden)
            if turn >= NUM_WARMUP:
                taken[precision].append(time.perf_counter() - began_s)
    return {precision: float(np.median(of_turns)) for precision, of_turns in taken.items()}


def _table(found: Sequence[Found]) -> Table:
    first = found[0].qualities
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("dense_precision")
    for head in ("time", "largest shift"):
        table.add_column(head, justify="right", no_wrap=True)
    add_columns(table, first)
    for one in found:
        of_first = {} if one is found[0] else first
        every = [cells(of_task, of_first.get(task), digits=3) for task, of_task in one.qualities.items()]
        table.add_row(one.precision, f"{one.time_ratio:.2f}", f"{one.largest_shift:.1e}", *chain(*every))
    return table
