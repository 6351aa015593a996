"""A run of `exfm bench train`: measure, print, and write the page and the raw numbers."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from exfm.artifact.manifest import write_json
from exfm_bench.machine import environment, processor, scheduling, versions
from exfm_bench.training.config import TrainBenchConfig
from exfm_bench.training.examples import write_examples
from exfm_bench.training.measuring import measure
from exfm_bench.training.page import Findings, missing_text, page, targets_table, trainers_table
from exfm_bench.training.trainers import our_trainers, peer_trainers

PAGE, NUMBERS = "train.md", "train.json"


def bench_training(console: Console, config: TrainBenchConfig, *, out: Path) -> None:
    """Measure, print, and write PAGE and NUMBERS into a folder.

    Raises: ConfigError if an environment of other trainers lacks a package; StageError if exfm's trainer ends.
    """
    out.mkdir(parents=True, exist_ok=True)
    for findings in _measured(console, config):  # what was found is kept, whatever ends the run
        write(findings, out)
    for measured in findings.measured:
        console.print(f"{measured.dim} numbers a row", style="bold")
        console.print(trainers_table(measured).rich())
    console.print(targets_table(findings.measured).rich())
    for line in missing_text(findings):
        console.print(line, soft_wrap=True)
    console.print(f"{out / PAGE}, {NUMBERS}: the page and the raw numbers", soft_wrap=True)


def write(findings: Findings, out: Path) -> None:
    """Write PAGE and NUMBERS into a folder, in the place of earlier ones."""
    write_json(out / NUMBERS, findings.to_dict())
    (out / PAGE).write_text(page(findings), encoding="utf-8")


def _measured(console: Console, config: TrainBenchConfig) -> Iterator[Findings]:
    """Yield what was measured so far, again and again, and print how far it is."""

    def say(line: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {line}", style="dim", soft_wrap=True, highlight=False)

    peers, missing = peer_trainers(config)
    facts = {
        "measured": time.strftime("%Y-%m-%d"),
        "processor": f"{processor()}, {scheduling()}",
        "software": versions("torch", "fbgemm-gpu-cpu", "polars"),
        "environment": environment(),
    }
    findings = Findings(facts=facts, config=config, missing=tuple(missing))
    with tempfile.TemporaryDirectory(prefix="exfm-bench-") as name:
        folder = Path(name)
        say(f"{config.num_examples:,} examples")
        write_examples(config, folder)
        for dim in config.dims:
            say(f"{dim} numbers a row")
            before = findings.measured
            for measured in measure(config, [*our_trainers(), *peers], folder, dim=dim, say=say):
                findings = replace(findings, measured=(*before, measured))
                yield findings
