"""`exfm distill`: compare the methods by which vertical models learn from foundation models."""

import typer

from exfm.cli.steps import ConfigOption, RootOption


def add_to(app: typer.Typer) -> None:
    """Add the subcommand."""
    group = typer.Typer(help="Compare distillation methods.", no_args_is_help=True)
    group.command("compare")(compare)

    app.add_typer(group, name="distill", rich_help_panel="Distillation")


def compare(config: ConfigOption, root: RootOption = "") -> None:
    """Compare distillation methods on a finished run's examples, and write comparison.html and comparison.json."""
    from exfm_components.run_config import read_run_config
    from exfm_pipelines.comparison import run_comparison
    from exfm_pipelines.summary import show_comparison

    run = read_run_config(config, root=root)
    run_comparison(run)
    show_comparison(run)
