"""A run of `exfm bench das`: measure, print, and write the page and the raw numbers."""

import os
import tempfile
import time
from pathlib import Path

from rich.console import Console

from exfm.artifact.manifest import write_json
from exfm_bench.das.config import DasBenchConfig
from exfm_bench.das.measuring import measure
from exfm_bench.das.page import Findings, joins_table, logs_table, page, targets_table
from exfm_bench.machine import environment, processor, scheduling, versions

PAGE, NUMBERS = "das.md", "das.json"


def bench_das(console: Console, config: DasBenchConfig, *, out: Path) -> None:
    """Measure, print, and write PAGE and NUMBERS into a folder.

    Raises: ConfigError if the environment of DuckDB lacks it; StageError if a process ends with an error.
    """
    out.mkdir(parents=True, exist_ok=True)

    def say(line: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {line}", style="dim", soft_wrap=True, highlight=False)

    load = f"{os.getloadavg()[1]:.1f}"
    with tempfile.TemporaryDirectory(prefix="exfm-bench-") as folder:
        measured = measure(config, Path(folder), say=say)
    facts = {
        "measured": time.strftime("%Y-%m-%d"),
        "processor": f"{processor()}, {scheduling()}",
        "load": f"{load} processes in the five minutes before, {os.getloadavg()[2]:.1f} in the last 15",
        "software": versions("polars", "deltalake", "torch"),
        "environment": environment(),
    }
    findings = Findings(facts=facts, config=config, measured=measured)
    write_json(out / NUMBERS, findings.to_dict())
    (out / PAGE).write_text(page(findings), encoding="utf-8")
    for table in (targets_table(measured), joins_table(measured), logs_table(measured)):
        console.print(table.rich())
    console.print(f"{out / PAGE}, {NUMBERS}: the page and the raw numbers", soft_wrap=True)
