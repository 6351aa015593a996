"""`exfm ingest`: an event log from the user's files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from exfm.events.sources import Source

OutOption = Annotated[str, typer.Option("--out", help="The event log's folder, or s3://bucket/prefix.")]
SchemaOption = Annotated[Path, typer.Option("--schema", help="The schema's YAML file.")]
WindowOption = Annotated[int, typer.Option("--window-length", min=1, help="Event time from one window to the next.")]

WEEK_S = 7 * 86_400
DAY_S = 86_400


def add_to(app: typer.Typer) -> None:
    """Add the subcommand, which has one subcommand a kind of source."""
    group = typer.Typer(help="Make an event log from your files.", no_args_is_help=True)
    group.command("movielens")(movielens)
    group.command("synthetic")(synthetic)
    group.command("log")(log)
    group.command("run")(of_run)
    group.command("check")(check)
    app.add_typer(group, name="ingest", rich_help_panel="One stage of a run")


def movielens(
    src: Annotated[
        str, typer.Argument(help="Folder or s3:// URL with MovieLens files (100K, 1M, 10M, or the CSV releases).")
    ],
    out: OutOption,
    window_length: WindowOption = WEEK_S,
) -> None:
    """Make a log from MovieLens ratings, with a simulated delay between impression and feedback."""
    from exfm.events.movielens import MovieLensSource
    from exfm.events.schemas import MOVIELENS

    _ingest(MovieLensSource(kind="movielens", folder=src), MOVIELENS, window_length, out)


def synthetic(
    out: OutOption,
    num_impressions: Annotated[int, typer.Option(min=1, help="Impressions to draw.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    window_length: WindowOption = DAY_S,
) -> None:
    """Make a log of ads from a seed, with known true probabilities."""
    from exfm.events.schemas import SYNTHETIC
    from exfm.events.synthetic import SyntheticSource

    source = SyntheticSource(kind="synthetic", num_impressions=num_impressions, seed=seed)
    _ingest(source, SYNTHETIC, window_length, out)


def log(
    impressions: Annotated[str, typer.Argument(help="Parquet file, folder or glob; s3:// too.")],
    feedback: Annotated[str, typer.Argument(help="Parquet file, folder or glob; s3:// too.")],
    schema: SchemaOption,
    out: OutOption,
    window_length: WindowOption = DAY_S,
) -> None:
    """Make a log from your own impressions and feedback, which docs/contracts.md describes."""
    from exfm.events.parquet import LogSource

    _ingest(LogSource(kind="log", impressions=impressions, feedback=feedback), schema, window_length, out)


def check(
    impressions: Annotated[str, typer.Argument(help="Parquet file, folder or glob; s3:// too.")],
    schema: SchemaOption,
    feedback: Annotated[str, typer.Option(help="The same of feedback; not given: only impressions are checked.")] = "",
) -> None:
    """Say column by column whether your files fit a schema, and what would help; exit code 0 if all fits."""
    from exfm.events.fitting import fit_feedback, fit_impressions, require_fit
    from exfm.schema import Schema

    read = Schema.read(schema)
    fits = [fit_impressions(impressions, read)]
    if feedback:
        fits.append(fit_feedback(feedback, read, impressions=fits[0]))
    print("\n".join(line for fit in fits for line in fit.lines()))
    require_fit(fits)


def of_run(
    config: Annotated[Path, typer.Option("--config", "-c", help="The run's YAML file.")],
    root: Annotated[str, typer.Option(help="Where outputs go, instead of the file's own root.")] = "",
) -> None:
    """Make the log of a run, from its source."""
    from exfm_components.run_config import read_run_config
    from exfm_pipelines.steps import run_step

    run_step("ingest", read_run_config(config, root=root))


def _ingest(source: "Source", schema: Path, window_length: int, out: str) -> None:
    from exfm.events.stage import ingest
    from exfm.schema import Schema

    manifest = ingest(source, schema=Schema.read(schema), window_length=window_length, out=out)
    print(f"{out}: {manifest.headline()}")
