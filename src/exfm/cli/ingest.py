"""`exfm ingest`: source files into a log's tables, and whether they fit."""

from pathlib import Path
from typing import Annotated

import typer

SchemaOption = Annotated[Path, typer.Option("--schema", help="The schema's YAML file.")]


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    group = typer.Typer(help="Take new files into a log's tables, or check them.", no_args_is_help=True)
    group.command("run")(of_run)
    group.command("check")(check)
    app.add_typer(group, name="ingest", rich_help_panel="One stage of a run")


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
    """Take the files that have arrived into the tables of a run."""
    from exfm_components.run_config import read_run_config
    from exfm_pipelines.steps import run_step

    run_step("ingest", read_run_config(config, root=root))
