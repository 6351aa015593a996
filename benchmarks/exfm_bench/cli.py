"""`exfm bench`: an entry point of the group `exfm.commands`, with one subcommand a promise.

What a subcommand needs is imported inside it, because `exfm --help` loads this module.
"""

from pathlib import Path
from typing import Annotated

import typer

from exfm.cli.output import writable

MIN_WIDTH = 240
"""Columns of the widest table: wrapped it cannot be read."""

BundleFolder = Annotated[Path, typer.Argument(help="A bundle's folder.")]

VerticalModel = Annotated[
    str, typer.Option("--model", help="Folder or URL of the vertical model that the bundle is of, ROOT/models/NAME.")
]

NumExamples = Annotated[int, typer.Option(min=1, help="Examples to score, at least; the newest are taken.")]


app = typer.Typer(
    name="bench",
    help="Measure what the project promises, on this machine.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def planner(
    num_seeds: Annotated[int, typer.Option(min=1, max=100, help="Seeds of each made-up model.")] = 3,
    requests_per_s: Annotated[
        float, typer.Option(min=1, help="Load that fleets are planned for; once more for ten times as much.")
    ] = 2000.0,
) -> None:
    """Time plans of 1,000 tables on 128 shards, and print how near the best they are; some minutes."""
    from rich.console import Console

    from exfm.planning.cost_model.costs import DEFAULT_COSTS
    from exfm_bench.planner import bench_planner

    console = Console()
    console.width = max(console.width, MIN_WIDTH)
    bench_planner(console, DEFAULT_COSTS, num_seeds=num_seeds, requests_per_s=requests_per_s)


@app.command()
def simulator(
    num_rounds: Annotated[int, typer.Option(min=1, max=1000, help="Times that each load is measured.")] = 12,
    num_requests: Annotated[
        int, typer.Option(min=100, max=1_000_000, help="Requests of each load, in all rounds.")
    ] = 3000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of requests, arrivals and the order of loads.")] = 0,
    out: Annotated[str, typer.Option(help="File for the measured costs, as --costs of `exfm shard` takes it.")] = "",
) -> None:
    """Measure real servers on this machine, fit the simulator to some and judge it by others; some 20 minutes."""
    from rich.console import Console

    from exfm.artifact.manifest import write_json
    from exfm.planning.cost_model.costs import DEFAULT_COSTS
    from exfm_bench.simulator import bench_simulator

    if out:
        writable(out)
    console = Console()
    console.width = max(console.width, MIN_WIDTH)
    costs = bench_simulator(console, DEFAULT_COSTS, num_rounds=num_rounds, num_requests=num_requests, seed=seed)
    if out:
        write_json(Path(out), costs.to_dict())
        print(f"{out}: the measured costs")


@app.command()
def degraded(bundle: BundleFolder, model: VerticalModel, num_examples: NumExamples = 20_000) -> None:
    """Print how much worse predictions are while a shard is away and answers are degraded."""
    from rich.console import Console

    from exfm_bench.degraded import bench_degraded
    from exfm_bench.qualities import examples_of_model

    console = Console()
    console.width = max(console.width, MIN_WIDTH)
    bench_degraded(console, bundle, examples=examples_of_model(model), num_examples=num_examples)


@app.command()
def precision(
    bundle: BundleFolder,
    model: VerticalModel,
    num_examples: NumExamples = 20_000,
    beside: Annotated[
        Path | None,
        typer.Option(help="Another bundle of the model, such as one with tables in fp32, to compare with."),
    ] = None,
) -> None:
    """Print how good and how fast predictions are with dense layers in fp32, bf16 and int8, on this machine."""
    from rich.console import Console

    from exfm_bench.precision import bench_precision
    from exfm_bench.qualities import examples_of_model

    console = Console()
    console.width = max(console.width, MIN_WIDTH)
    bench_precision(console, bundle, examples=examples_of_model(model), num_examples=num_examples, beside=beside)


@app.command()
def serving(
    out: Annotated[Path, typer.Option(help="Folder for the page, its picture and the raw numbers.")],
    settings: Annotated[
        Path | None, typer.Option(help="YAML file of what to measure; the defaults take about an hour.")
    ] = None,
) -> None:
    """Measure sharded beside unsharded serving on two cores of this machine: P50, P99 and CPU time, as ratios."""
    from rich.console import Console

    from exfm.config import read_yaml
    from exfm_bench.serving.bench import PAGE, bench_serving
    from exfm_bench.serving.config import ServingBenchConfig

    writable(str(out / PAGE))
    config = ServingBenchConfig.parse(read_yaml(settings) if settings else {}, source=str(settings))
    console = Console()
    console.width = max(console.width, MIN_WIDTH)
    bench_serving(console, config, out=out)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for the page and the raw numbers.")],
    settings: Annotated[
        Path | None,
        typer.Option(help="YAML file of what to measure; the defaults take some minutes."),
    ] = None,
    fuxictr: Annotated[str, typer.Option(help="Virtual environment with FuxiCTR; replaces peers.fuxictr.")] = "",
    torchrec: Annotated[str, typer.Option(help="Virtual environment with torchrec; replaces peers.torchrec.")] = "",
) -> None:
    """Measure examples/s and memory of training, beside FuxiCTR and torchrec where environments of theirs are named."""
    from rich.console import Console

    from exfm.config import read_yaml
    from exfm_bench.training.bench import PAGE, bench_training
    from exfm_bench.training.config import TrainBenchConfig

    writable(str(out / PAGE))
    config = TrainBenchConfig.parse(read_yaml(settings) if settings else {}, source=str(settings))
    config = config.with_peers(fuxictr=fuxictr, torchrec=torchrec)
    console = Console()
    console.width = max(console.width, MIN_WIDTH)
    bench_training(console, config, out=out)


@app.command()
def das(
    out: Annotated[Path, typer.Option(help="Folder for the page and the raw numbers.")],
    settings: Annotated[
        Path | None,
        typer.Option(help="YAML file of what to measure; the defaults take some minutes."),
    ] = None,
    duckdb: Annotated[str, typer.Option(help="Virtual environment with DuckDB; replaces duckdb of the settings.")] = "",
) -> None:
    """Measure labels, join and scoring in tables beside bare ones, and how time and memory grow with a log."""
    from rich.console import Console

    from exfm.config import read_yaml
    from exfm_bench.das.bench import PAGE, bench_das
    from exfm_bench.das.config import DasBenchConfig

    writable(str(out / PAGE))
    config = DasBenchConfig.parse(read_yaml(settings) if settings else {}, source=str(settings))
    console = Console()
    console.width = max(console.width, MIN_WIDTH)
    bench_das(console, config.with_duckdb(duckdb), out=out)


@app.command()
def results(
    examples: Annotated[Path, typer.Option(help="Folder of the settings and the data.")] = Path("examples"),
    out: Annotated[Path, typer.Option(help="Folder of all files; what is there stays.")] = Path("out/results"),
    docs: Annotated[Path, typer.Option(help="Folder of the page and of its pictures, images/.")] = Path("docs"),
    num_worlds: Annotated[int, typer.Option(min=2, max=100, help="Synthetic worlds, from seed 1 on.")] = 10,
    num_processes: Annotated[int, typer.Option(min=1, max=64, help="Parts that are made at a time.")] = 2,
) -> None:
    """Compare methods on MovieLens-100K, the Open Bandit sample and synthetic worlds; about an hour."""
    from exfm_bench.results.bench import PAGE, bench_results

    page = writable(str(docs / PAGE))
    bench_results(examples=examples, out=out.absolute(), docs=docs, num_worlds=num_worlds, num_processes=num_processes)
    print(f"{page}: written")
