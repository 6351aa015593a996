"""`exfm das`: the data augmentation system of a growing log."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from exfm_components.run_config import RunConfig

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The run's YAML file.")]
RootOption = Annotated[str, typer.Option("--root", help="Where the tables are, instead of the file's own root.")]


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    group = typer.Typer(help="Examples from a growing log: each window once.", no_args_is_help=True)
    for command in (advance, progress):
        group.command()(command)
    app.add_typer(group, name="das", rich_help_panel="One stage of a run")


def advance(
    config: ConfigOption,
    root: RootOption = "",
    until: Annotated[
        str, typer.Option(help="The log is complete up to this time: a date in UTC, or a number in its unit.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Go on as files come, until Ctrl-C.")] = False,
) -> None:
    """Do whatever is due: ingest new files; label, pseudo-label and join their windows. Run again, it does nothing."""
    from exfm.das.advance import advance
    from exfm.das.advance import follow as advance_forever
    from exfm_components.data_augmentation import das_of, published
    from exfm_components.run_config import read_run_config

    run = read_run_config(config, root=root)
    das = das_of(run)
    work = (advance_forever if follow else advance)(
        das, run.source, published=lambda: published(run), until=das.time_of(until) if until else None
    )
    with suppress(KeyboardInterrupt):  # the way to end `--follow`; nothing is left half done
        for done in work:
            print(f"{done.stage}: {done.item}", flush=True)
    _show(run)


def progress(config: ConfigOption, root: RootOption = "") -> None:
    """Show by stage what is done, what is due and what the rest waits for, and what became of all rows."""
    from exfm_components.run_config import read_run_config

    _show(read_run_config(config, root=root))


def _show(run: "RunConfig") -> None:
    from rich.console import Console

    from exfm.das.progress import progress
    from exfm.report.das_progress import print_progress
    from exfm_components.data_augmentation import das_of, published

    print_progress(progress(das_of(run), run.source, foundation_models=published(run)), console=Console())
