"""`exfm bench degraded`: how good predictions are while a shard is away and fallback rows replace its own."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from exfm.events.examples import ExampleTable
from exfm.metrics.quality import Quality
from exfm.models.scoring import UnshardedScorer
from exfm_bench.qualities import NewestExamples, about, add_columns, cells


@dataclass(frozen=True)
class Loss:
    """The quality of predictions while some shards are away."""

    shards: tuple[int, ...]
    tables: tuple[str, ...]
    """Tables with rows on these shards."""
    qualities: Mapping[str, Quality]
    """Quality by task."""


def bench_degraded(console: Console, bundle: Path, *, examples: ExampleTable, num_examples: int) -> None:
    """Measure and print.

    Raises: as `losses`.
    """
    found = losses(bundle, examples=examples, num_examples=num_examples)
    console.print(_table(found))
    console.print(about(found[0].qualities), soft_wrap=True)


def losses(bundle: Path, *, examples: ExampleTable, num_examples: int) -> list[Loss]:
    """Return the quality of a bundle that is complete, then without each shard, then without any.

    It is measured on the newest windows of examples, as many as hold `num_examples` of the bundle's domains.

    Raises: BundleError if the bundle has no fallback rows; StorageError, DataError if there are no such examples.
    """
    scorer = UnshardedScorer.load(bundle)
    newest = NewestExamples(examples, scorer.manifest, num_examples=num_examples)
    every = tuple(range(scorer.manifest.plan.num_shards))
    missing = dict.fromkeys([(), *((shard,) for shard in every), every])  # one shard is all of them
    return [_loss(scorer, newest, without=without) for without in missing]


def _loss(scorer: UnshardedScorer, newest: NewestExamples, *, without: Collection[int]) -> Loss:
    held = {slice_.table for shard in without for slice_ in scorer.manifest.plan.slices_on(shard)}
    scores_BT = newest.scores(scorer, without=without)
    return Loss(shards=tuple(without), tables=tuple(sorted(held)), qualities=newest.qualities(scores_BT))


def _table(found: Sequence[Loss]) -> Table:
    complete = found[0].qualities
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("missing", "tables"):
        table.add_column(column)
    add_columns(table, complete)
    for loss in found:
        first = complete if loss.shards else {}
        every = [cells(of_task, first.get(task), digits=1) for task, of_task in loss.qualities.items()]
        table.add_row(_name(loss, found), ", ".join(loss.tables), *chain(*every))
    return table


def _name(loss: Loss, found: Sequence[Loss]) -> str:
    if not loss.shards:
        return "nothing"
    return "all shards" if loss is found[-1] else f"shard {loss.shards[0]}"
