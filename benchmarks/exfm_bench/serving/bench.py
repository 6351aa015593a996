"""A run of `exfm bench serving`: measure, print, and write page, picture and raw numbers."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from exfm.artifact.manifest import write_json
from exfm_bench.machine import environment, processor, scheduling, versions
from exfm_bench.serving import tables
from exfm_bench.serving.config import ServingBenchConfig
from exfm_bench.serving.findings import Findings
from exfm_bench.serving.measuring import measure_scenario
from exfm_bench.serving.memory import measure_memory
from exfm_bench.serving.page import beside_peers, flatness, memory_text, page
from exfm_bench.serving.peers import measure_peers
from exfm_bench.serving.picture import draw
from exfm_bench.serving.servers import Bundles, cores_of_servers
from exfm_bench.serving.sweep import measure_sweep
from exfm_bench.serving.targets import judged

PAGE, PICTURE, NUMBERS = "serving.md", "serving.png", "serving.json"


def bench_serving(console: Console, config: ServingBenchConfig, *, out: Path) -> None:
    """Measure, print, and write PAGE, PICTURE and NUMBERS into a folder.

    Raises: ConfigError on a machine of one core; PlanError if a strategy finds no place for a model's tables;
    ServingError if servers do not start or answer.
    """
    out.mkdir(parents=True, exist_ok=True)
    for findings in measure(console, config):  # what was found is kept, whatever ends a run of hours
        write(findings, out)
    print_tables(console, findings)
    console.print(f"{out / PAGE}, {PICTURE}, {NUMBERS}: the page, its picture, and the raw numbers", soft_wrap=True)


def write(findings: Findings, out: Path) -> None:
    """Write PAGE, PICTURE and NUMBERS into a folder, each whole, in the place of earlier ones."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".writing-") as folder:
        whole = Path(folder)
        write_json(whole / NUMBERS, findings.to_dict())
        draw(findings, whole / PICTURE)
        (whole / PAGE).write_text(page(findings, picture=PICTURE), encoding="utf-8")
        for name in (PAGE, PICTURE, NUMBERS):
            (whole / name).replace(out / name)


def measure(console: Console, config: ServingBenchConfig) -> Iterator[Findings]:
    """Yield what was measured, again after each part, and print how far it is."""

    def say(line: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {line}", style="dim", soft_wrap=True, highlight=False)

    findings = Findings(facts=facts_of_machine(), config=config, scenarios=(), sweep=None, peers=None)
    with tempfile.TemporaryDirectory(prefix="exfm-bench-") as folder:
        bundles = Bundles(Path(folder))
        for number, scenario in enumerate(config.scenarios, start=1):
            say(f"scenario {number} of {len(config.scenarios)}: {scenario.model}, {scenario.candidates} candidates")
            before = findings.scenarios
            for measured in measure_scenario(scenario, config, bundles, say=say):
                findings = replace(findings, scenarios=(*before, *measured))
                yield findings
        if config.sweep.rows:
            say("the sweep of rows")
            findings = replace(findings, sweep=measure_sweep(config, bundles, say=say))
            yield findings
        if config.memory.requests:
            say("memory")
            findings = replace(findings, memory=tuple(measure_memory(config, bundles, say=say)))
            yield findings
        if config.peers.model != "none":
            say(f"other servers: {config.peers.model}, {config.peers.candidates} candidates")
            peers = measure_peers(config, config.peers.model, bundles, Path(folder) / "peers", say=say)
            yield replace(findings, peers=peers)


def print_tables(console: Console, findings: Findings) -> None:
    """Print the tables."""
    if findings.scenarios:
        console.print(tables.of_scenarios(findings.scenarios).rich())
        console.print(tables.of_targets(judged(findings.scenarios)).rich())
    if findings.sweep:
        console.print(tables.of_sweep(findings.sweep).rich())
        console.print(flatness(findings.sweep), soft_wrap=True)
    if findings.memory:
        console.print(tables.of_memory(findings.memory).rich())
        console.print(memory_text(findings.memory), soft_wrap=True)
    if findings.peers:
        console.print(tables.of_peers(findings.peers).rich())
        console.print(beside_peers(findings.peers), soft_wrap=True)


def facts_of_machine() -> dict[str, str]:
    """Return what a reader must know of the machine."""
    cores = ", ".join(map(str, cores_of_servers()))
    return {
        "measured": time.strftime("%Y-%m-%d"),
        "processor": f"{processor()}; servers on cores {cores}, {scheduling()}",
        "software": versions("torch", "grpcio", "kserve"),
        "environment of servers": environment(),
    }
