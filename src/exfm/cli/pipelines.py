"""`exfm pipelines`: what a Kubeflow cluster runs."""

from pathlib import Path
from typing import Annotated

import typer

from exfm.cli.output import here


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    group = typer.Typer(help="Pipelines for a Kubeflow cluster.", no_args_is_help=True)
    group.command("compile")(compile_all)
    app.add_typer(group, name="pipelines", rich_help_panel="The whole path")


def compile_all(
    out: Annotated[Path, typer.Option("--out", help="Folder for the YAML files.")] = Path("build/pipelines"),
    max_parallel: Annotated[int, typer.Option(min=1, max=1000, help="Vertical models trained at a time.")] = 8,
) -> None:
    """Compile every pipeline to YAML, to be uploaded to Kubeflow Pipelines."""
    from exfm_pipelines.compile import compile_pipelines

    for file in compile_pipelines(here(str(out)), max_parallel=max_parallel):
        print(file)
