"""`exfm das`: the data augmentation system of a growing log."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exfm.cli.interrupts import until_interrupted

if TYPE_CHECKING:
    from exfm_components.run_config import RunConfig

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The run's YAML file.")]
RootOption = Annotated[str, typer.Option("--root", help="Where the tables are, instead of the file's own root.")]


def add_to(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command(rich_help_panel="The whole path")(progress)
    group = typer.Typer(help="Examples and models from a growing log: each window once.", no_args_is_help=True)
    for command in (advance, report, relabel, rescore, verify):
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
    """Do whatever is due up to the models: new files, labels and examples of their windows, and what models learn.

    Run again, it does nothing. `exfm run` does this, and releases the models.
    """
    from exfm.das.advance import advance
    from exfm.das.advance import follow as advance_forever
    from exfm.das.stages import Done
    from exfm_components.data_augmentation import das_of
    from exfm_components.lines import foundation_models, vertical_models
    from exfm_components.run_config import read_run_config

    run = read_run_config(config, root=root)
    das = das_of(run)
    complete_until = das.time_of(until) if until else None

    def work() -> Iterator[Done]:
        models, lines = foundation_models(run), vertical_models(run)
        return advance(das, run.source, foundation_models=models, vertical_models=lines, until=complete_until)

    with until_interrupted():  # the way to end `--follow`; nothing is left half done
        for done in advance_forever(work) if follow else work():
            print(f"{done.stage}: {done.item}", flush=True)
    show_progress(run)


def progress(config: ConfigOption, root: RootOption = "") -> None:
    """Show by stage what is done, what is due and what the rest waits for, and what became of all rows."""
    from exfm_components.run_config import read_run_config

    show_progress(read_run_config(config, root=root))


def report(
    config: ConfigOption,
    root: RootOption = "",
    windows: Annotated[int, typer.Option(min=1, help="The newest windows that are shown.")] = 3,
) -> None:
    """Show figures of the newest windows: rows, label rates, pseudo-labels, drift."""
    from rich.console import Console

    from exfm.das.closing import LogState
    from exfm.das.reporting import newest_figures
    from exfm.report.das_figures import print_figures
    from exfm_components.data_augmentation import das_of
    from exfm_components.run_config import read_run_config

    das = das_of(read_run_config(config, root=root))
    print_figures(newest_figures(LogState.of(das), num_windows=windows), console=Console())


def relabel(config: ConfigOption, root: RootOption = "") -> None:
    """Label windows again with rows that came late, or by changed label rules, as a new revision; join them again."""
    from exfm.das.revisions import relabel
    from exfm_components.data_augmentation import das_of
    from exfm_components.run_config import read_run_config

    run = read_run_config(config, root=root)
    das = das_of(run)
    for window in relabel(das):
        print(f"label again: {das.time_text(das.grid.window(window).start)}", flush=True)
    advance(config, root)


def rescore(config: ConfigOption, root: RootOption = "") -> None:
    """Score windows that went without a foundation model, as a new revision; join them again."""
    from exfm.das.closing import LogState
    from exfm.das.revisions import rescore
    from exfm.das.scoring import teaching
    from exfm_components.data_augmentation import das_of
    from exfm_components.lines import foundation_models
    from exfm_components.run_config import read_run_config

    run = read_run_config(config, root=root)
    das = das_of(run)
    for fm, model in foundation_models(run).items():
        with teaching(model, LogState.of(das)) as teacher:
            for window in rescore(das, fm, teacher) if teacher else ():
                print(f"pseudo-label {fm} again: {das.time_text(das.grid.window(window).start)}", flush=True)
    advance(config, root)


def verify(
    config: ConfigOption,
    root: RootOption = "",
    windows: Annotated[int, typer.Option(min=1, help="Windows to compute again.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice.")] = 0,
) -> None:
    """Compute random windows again, and compare them with the tables."""
    from exfm.das.verification import verify
    from exfm_components.data_augmentation import das_of
    from exfm_components.lines import foundation_models
    from exfm_components.run_config import read_run_config

    run = read_run_config(config, root=root)
    das = das_of(run)
    for one in verify(das, foundation_models=foundation_models(run), num_windows=windows, seed=seed):
        print(f"{one.table}, {das.time_text(das.grid.window(one.window).start)}: {one.num_rows:,} rows agree")


def show_progress(run: "RunConfig") -> None:
    """Show where the tables of a run stand."""
    from rich.console import Console

    from exfm.das.progress import progress
    from exfm.report.das_progress import print_progress
    from exfm_components.data_augmentation import das_of
    from exfm_components.lines import foundation_models, vertical_models

    found = progress(
        das_of(run), run.source, foundation_models=foundation_models(run), vertical_models=vertical_models(run)
    )
    print_progress(found, console=Console())
