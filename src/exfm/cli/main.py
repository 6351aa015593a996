"""`exfm`: parses, delegates, and turns an ExfmError into one line and an exit code.

What a command needs is imported inside it: torch, KFP and MLflow take seconds, and `exfm --help` needs none of them.
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from exfm.cli import (
    data_augmentation,
    deployment,
    distillation,
    explain,
    ingest,
    lineage,
    pipelines,
    serving,
    sharding,
    steps,
)
from exfm.cli.commands import Commands
from exfm.cli.interrupts import until_interrupted
from exfm.environment import compute_environment
from exfm.errors import ExfmError

app = typer.Typer(
    cls=Commands,
    help="Teach once, distil many, serve sharded.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"exfm {version('exfm')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Teach once, distil many, serve sharded."""


@app.command(rich_help_panel="The whole path")
def run(
    config: Annotated[Path, typer.Option("--config", "-c", help="The run's YAML file.")],
    root: Annotated[str, typer.Option(help="Where outputs go, instead of the file's own root.")] = "",
    until: Annotated[
        str, typer.Option(help="The log is complete up to this time: a date in UTC, or a number in its unit.")
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", help="Run again whenever new files have arrived, until Ctrl-C.")
    ] = False,
) -> None:
    """Do whatever is due, from new files of a log to a served model, with a report. Run again, it goes on."""
    from exfm.das.stages import wait_for_files
    from exfm_components.data_augmentation import das_of
    from exfm_components.run_config import read_run_config
    from exfm_pipelines.local import run_locally
    from exfm_pipelines.summary import show_summary

    settings = read_run_config(config, root=root)
    if until:
        das_of(settings).time_of(until)  # an error before the work
    run_locally(settings, until=until)
    show_summary(settings)
    with until_interrupted():  # the way to end it; a signal during a run ends as without `--follow`
        while follow:
            wait_for_files(das_of(settings), settings.source)
            run_locally(settings, until=until)
            show_summary(settings)


steps.add_to(app)
distillation.add_to(app)
ingest.add_to(app)
data_augmentation.add_to(app)
serving.add_to(app)
deployment.add_to(app)
sharding.add_to(app)
pipelines.add_to(app)
lineage.add_to(app)
explain.add_to(app)


def launch() -> None:
    """Run the command line in a process that has the environment for tensors from its start."""
    environment = os.environ | compute_environment()
    if environment != os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    main()


def main() -> None:
    """Run the command line."""
    try:
        app()
    except ExfmError as error:
        print(f"exfm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
