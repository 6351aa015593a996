"""`exfm shard`: plan a model's shards, explain a plan, and predict its cost and latency."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exfm.cli.output import put, writable

if TYPE_CHECKING:
    from exfm.planning.config import ShardingConfig
    from exfm.planning.statistics import Statistics
    from exfm.schema import Schema

ModelArgument = Annotated[Path, typer.Argument(help="A schema's YAML file, or a bundle's folder.")]
SettingsOption = Annotated[
    str, typer.Option("--settings", "-s", help="YAML file with the keys of bundle.sharding; empty: the defaults.")
]
StatisticsOption = Annotated[
    str, typer.Option("--statistics", help="Folder of `exfm shard statistics`; empty: an estimate from the schema.")
]
CandidatesOption = Annotated[
    float,
    typer.Option("--candidates", min=1, max=1_000_000, help="Mean candidates of a request, if nothing was counted."),
]
CostsOption = Annotated[
    str, typer.Option("--costs", help="YAML file with measured costs; empty: the costs of exfm's own servers.")
]

MIN_WIDTH = 140
"""Minimum width of tables, in columns: wrapped tables cannot be read."""


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    group = typer.Typer(help="Plan shards, explain a plan, and predict its cost.", no_args_is_help=True)
    group.command("plan")(plan)
    group.command("explain")(explain)
    group.command("simulate")(simulate)
    group.command("statistics")(statistics)
    app.add_typer(group, name="shard", rich_help_panel="Sharding")


def plan(
    model: ModelArgument,
    settings: SettingsOption = "",
    table_statistics: StatisticsOption = "",
    candidates: CandidatesOption = 100.0,
    costs: CostsOption = "",
    strategy: Annotated[str, typer.Option(help="Strategy; empty: the settings' own.")] = "",
    previous: Annotated[str, typer.Option(help="Old plan, or a bundle's folder, to move few bytes from.")] = "",
    out: Annotated[str, typer.Option(help="JSON file for the plan, or its s3:// URL.")] = "",
    drawing: Annotated[str, typer.Option(help="PNG or SVG file for the comparison.")] = "",
) -> None:
    """Make a plan by the settings' strategy, and compare all strategies."""
    from rich.console import Console

    from exfm.artifact.bundle import read_plan
    from exfm.artifact.manifest import json_bytes
    from exfm.artifact.stores import is_local
    from exfm.planning.cost_model.costs import CostModel
    from exfm.planning.planner import headline
    from exfm.planning.replanning.replanner import replan
    from exfm.planning.reporting.comparison import compare, compared_plan, comparison_table

    schema, config = _read_schema(model), _read_settings(settings, strategy=strategy)
    counted, priced = _read_statistics(table_statistics, schema, candidates), CostModel.read(costs)
    before = read_plan(previous) if previous else None
    if drawing:
        from exfm.planning.reporting.style import kind_of_drawing

        kind_of_drawing(Path(drawing))
        writable(drawing)
    if out and is_local(out):
        writable(out)
    rows = compare(schema, counted, config, priced)
    console = Console()
    console.width = max(console.width, MIN_WIDTH)
    console.print(comparison_table(rows))
    for row in rows:
        if row.problem:
            print(row.problem)
    if drawing:
        from exfm.planning.reporting.drawing import draw_comparison

        draw_comparison(rows, config, title=model.stem, out=Path(drawing))
        print(f"{drawing}: the comparison")
    if before:
        replanned = replan(before, schema, counted, config, priced)
        found, moves = replanned.plan, f"; {replanned.headline()}"
    else:
        found, moves = compared_plan(rows, schema, counted, config, priced), ""
    print(headline(found) + moves)
    if out:
        put(out, json_bytes(found.to_dict()))
        print(f"{out}: the plan")


def explain(
    table: Annotated[str, typer.Argument(help="A table of the model.")],
    model: ModelArgument,
    plan: Annotated[str, typer.Option(help="The plan's JSON file; empty: the bundle's own.")] = "",
    settings: SettingsOption = "",
    table_statistics: StatisticsOption = "",
    candidates: CandidatesOption = 100.0,
    costs: CostsOption = "",
) -> None:
    """Explain why a plan places a table where it does."""
    from exfm.artifact.bundle import read_plan
    from exfm.planning.cost_model.costs import CostModel
    from exfm.planning.reporting.explanation import explain as explained

    schema = _read_schema(model)
    found = read_plan(plan or str(model)).check(schema)
    counted = _read_statistics(table_statistics, schema, candidates)
    for sentence in explained(table, found, counted, _read_settings(settings), CostModel.read(costs)):
        print(sentence)


def simulate(
    model: ModelArgument,
    requests_per_s: Annotated[float, typer.Option(min=1e-9, max=1e9, help="Incoming requests per second.")],
    plan: Annotated[str, typer.Option(help="The plan's JSON file; empty: the bundle's own.")] = "",
    table_statistics: StatisticsOption = "",
    candidates: CandidatesOption = 100.0,
    candidates_p99: Annotated[
        float, typer.Option(min=0, help="99th percentile of a request's candidates; 0: all requests have the mean.")
    ] = 0.0,
    log: Annotated[str, typer.Option(help="Request log to replay at this rate; empty: requests are drawn.")] = "",
    costs: CostsOption = "",
    rankers: Annotated[int, typer.Option(min=0, max=10_000, help="Number of rankers; 0: the plan's own.")] = 0,
    num_requests: Annotated[int, typer.Option(min=100, max=1_000_000, help="Requests to simulate.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
) -> None:
    """Predict latency, CPU time and utilisation of a plan's servers under a load."""
    from exfm.artifact.bundle import read_plan
    from exfm.bundling.counting import statistics_of_log
    from exfm.bundling.replay import simulate_log
    from exfm.bundling.request_log import LoggedRequests
    from exfm.planning.cost_model.costs import CostModel
    from exfm.planning.counted import Counted
    from exfm.planning.perf_model.forecast import simulate_plan
    from exfm.planning.reporting.prediction import prediction_lines
    from exfm.planning.simulation.simulator import Load
    from exfm.planning.statistics import check_statistics

    schema, priced = _read_schema(model), CostModel.read(costs)
    found = read_plan(plan or str(model)).check(schema)
    rankers = rankers or found.rankers or 1
    if log:
        logged = LoggedRequests.find(Path(log), schema)
        counted = Counted.read(table_statistics) if table_statistics else statistics_of_log(logged)
        check_statistics(schema, counted.statistics)
        prediction = simulate_log(
            logged, found, counted, priced, requests_per_s=requests_per_s, rankers=rankers, seed=seed
        )
        if logged.num_requests > len(logged.arrivals_ns):
            print(f"the log has {logged.num_requests:,} requests; the newest {len(logged.arrivals_ns):,} are replayed")
    else:
        drawn = _read_statistics(table_statistics, schema, candidates)
        load = Load.parse(
            {"requests_per_s": requests_per_s, "num_requests": num_requests, "candidates_p99": candidates_p99},
            source="the load",
        )
        prediction = simulate_plan(found, drawn, priced, load, rankers=rankers, seed=seed)
    for line in prediction_lines(prediction):
        print(line)


def statistics(
    source: Annotated[str, typer.Argument(help="A request log; or a vertical model (models/NAME), for its examples.")],
    out: Annotated[str, typer.Option(help="Folder or s3:// URL for the statistics.")],
    model: Annotated[str, typer.Option(help="For a request log: a schema's YAML file, or a bundle's folder.")] = "",
    candidates: CandidatesOption = 100.0,
) -> None:
    """Count how requests use a model's tables: keys, bags and hottest rows."""
    from rich.console import Console
    from rich.table import Table

    from exfm.artifact.storage import ref_to
    from exfm.bundling.counting import statistics_of_log
    from exfm.bundling.request_log import LoggedRequests
    from exfm.bundling.stage import statistics_of_model
    from exfm.planning.statistics import rows_of_text

    if model:
        counted = statistics_of_log(LoggedRequests.find(Path(source), _read_schema(Path(model))))
    else:
        counted = statistics_of_model(ref_to(source), candidates_mean=candidates)
    counted.write(out)
    table, rows = Table(box=None), rows_of_text(counted.statistics)
    for place, column in enumerate(rows[0]):
        table.add_column(column, justify="left" if place < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console = Console()
    console.width = max(console.width, MIN_WIDTH)
    console.print(table)
    print(f"{out}: {len(counted.statistics.tables)} tables, counted on {counted.statistics.num_requests:,} requests")


def _read_schema(model: Path) -> "Schema":
    from exfm.artifact.bundle import BundleManifest
    from exfm.schema import Schema

    return BundleManifest.read(model, verify=False).feature_schema if model.is_dir() else Schema.read(model)


def _read_settings(file: str, *, strategy: str = "") -> "ShardingConfig":
    from exfm.config import read_yaml
    from exfm.planning.config import ShardingConfig

    found = ShardingConfig.parse(read_yaml(Path(file)) or {}, source=file) if file else ShardingConfig()
    return ShardingConfig.parse(found.to_dict() | {"strategy": strategy}, source="--strategy") if strategy else found


def _read_statistics(folder: str, schema: "Schema", candidates: float) -> "Statistics":
    from exfm.planning.counted import Counted
    from exfm.planning.statistics import check_statistics, statistics_of_schema

    if not folder:
        return statistics_of_schema(schema, candidates_mean=candidates)
    found = Counted.read(folder).statistics
    check_statistics(schema, found)
    return found
