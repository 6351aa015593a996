"""The page that says what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from exfm.planning.sizes import bytes_text
from exfm_bench.ratios import Interval, Verdict, at_most
from exfm_bench.table import Table
from exfm_bench.training.config import TrainBenchConfig
from exfm_bench.training.measuring import Measured, Series, settings_text
from exfm_bench.training.trainers import EXFM, FROM_MEMORY, FUXICTR, SAME, TESTED, TORCHREC, TORCHREC_FP16

FASTER = {FUXICTR: (EXFM, 5.0), TORCHREC: (FROM_MEMORY, 1.0), TORCHREC_FP16: (FROM_MEMORY, 1.0)}
"""Targets: the way of exfm that a peer is compared with, which reads if the peer does, and how many times as fast it
is."""

LINEAR, FLAT = 1.05, 1.05
"""Targets: how many times as long an example takes among more of them, and as much memory, at most."""


@dataclass(frozen=True)
class Findings:
    """Where and how it was measured, and what came out."""

    facts: Mapping[str, str]
    config: TrainBenchConfig
    missing: tuple[str, ...]
    """Trainers that are left out, and why."""
    measured: tuple[Measured, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the raw numbers of all turns, as JSON can hold them."""
        return {
            "facts": dict(self.facts),
            "config": self.config.to_dict(),
            "missing": list(self.missing),
            "measured": [asdict(one) for one in self.measured],
        }


def page(findings: Findings) -> str:
    """Return the page in Markdown."""
    sections = ["# Training beside other trainers", _how(findings)]
    for measured in findings.measured:
        sections += [f"## {measured.dim} numbers a row", trainers_table(measured).markdown()]
    if findings.measured:
        sections += ["## Targets", targets_table(findings.measured).markdown(), _rules()]
    return "\n\n".join(sections) + "\n"


def trainers_table(measured: Measured) -> Table:
    """Return every trainer of one number of dims."""
    ours = _ours(measured, EXFM)
    heads = (
        "trainer",
        "version",
        "settings",
        "examples/s",
        "CPU us",
        "time / exfm's",
        "CPU time / exfm's",
        "peak memory",
    )
    rows = [
        (
            one.trainer.name,
            one.trainer.version,
            settings_text(one.settings),
            _rate_text(one.examples_per_s),
            f"{one.cpu_us:.1f}",
            "1" if one is ours else str(one.times_slower(ours)),
            "1" if one is ours else str(one.times_cpu(ours)),
            bytes_text(one.peak_bytes),
        )
        for one in measured.series
    ]
    return Table(heads, rows, num_words=3)


def targets_table(every: Sequence[Measured]) -> Table:
    """Return every target, and whether it was met."""
    heads = ("numbers a row", "what", "wanted", "found", "A/A", "target")
    rows = []
    for measured in every:
        same = measured.of(SAME)
        chance = str(same.times_slower(_ours(measured, EXFM))) if same else ""
        for name, (way, times) in FASTER.items():
            peer = measured.of(name)
            if peer is None:
                continue
            found = peer.times_slower(_ours(measured, way))
            what = f"{name}'s time over that of {way}"
            rows.append((str(measured.dim), what, f"{times:g} or more", str(found), chance, at_least(found, times)))
        growth = measured.growth
        if growth is None:
            continue
        what = f"time of an example among {growth.times} times as many"
        time, memory = growth.time, growth.memory
        rows.append((str(measured.dim), what, f"{LINEAR:g} or less", str(time), chance, at_most(time, LINEAR)))
        is_flat: Verdict = "met" if memory <= FLAT else "not met"
        rows.append((str(measured.dim), "peak memory then", f"{FLAT:g} or less", f"{memory:.3f}", "", is_flat))
    return Table(heads, rows, num_words=2)


def at_least(found: Interval, wanted: float) -> Verdict:
    """Return whether a figure is at least what is wanted: all of its interval is."""
    if found.low >= wanted:
        return "met"
    return "not met" if found.high < wanted else "not resolved"


def missing_text(findings: Findings) -> list[str]:
    """Return a sentence on each trainer that was not measured."""
    return [
        *findings.missing,
        *(f"{one}, {measured.dim} numbers a row" for measured in findings.measured for one in measured.missing),
    ]


def _ours(measured: Measured, name: str) -> Series:
    ours = measured.of(name)
    assert ours is not None, "all of exfm's ways are measured"
    return ours


def _rate_text(rate: Interval) -> str:
    return f"{rate.value:,.0f} [{rate.low:,.0f}, {rate.high:,.0f}]"


def _how(findings: Findings) -> str:
    config = findings.config
    facts = "\n".join(f"- {name}: {fact}" for name, fact in findings.facts.items())
    missing = "".join(f"\n- {one}" for one in missing_text(findings))
    network = config.network
    return (
        f"{facts}{missing}\n\n"
        f"DCNv2 with {config.num_tables} tables of {config.rows:,} rows, uniform ids, {network.num_cross_layers} cross "
        f"layers of rank {network.cross_rank} beside {'-'.join(map(str, network.top_units))} units, and minibatches of "
        f"{config.batch_size:,}. A turn learns {config.num_examples:,} examples once; there are {config.turns} turns, "
        "in each of which all trainers come once, in an order drawn anew. Figures are medians over turns with 95 % "
        "intervals; ratios are of the same turn. Each trainer has the settings with which it was fastest before, and "
        "exfm's environment for memory and threads. A process is alone while it trains.\n\n"
        f"*{EXFM}* reads Parquet files, hashes ids, and learns; *{FROM_MEMORY}* learns what it has read before; both "
        f"score no window, as the other trainers do. *{TESTED}* also scores each window before it learns it, as exfm's "
        f"stages do where labels are known at once. {TORCHREC} takes row numbers "
        f"from arrays in memory, {FUXICTR} reads row numbers from a file of its own (.npz). Writing of files is not "
        "timed. exfm and torchrec update the rows of a minibatch by row-wise Adagrad, FP16 tables without stochastic "
        "rounding; FuxiCTR updates all rows of all tables by Adam. Peak memory is that of the trainer's process, "
        "without FuxiCTR's processes that read."
    )


def _rules() -> str:
    return (
        "*met*: all of the interval is on the right side; *not resolved*: a part of it is. A peer that reads is "
        "compared with exfm that reads, one that does not with exfm from memory."
    )
