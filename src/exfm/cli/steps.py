"""Subcommands that run one stage of a run; each reads the outputs of earlier stages under the root."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The run's YAML file.")]
RootOption = Annotated[str, typer.Option("--root", help="Where outputs are, instead of the file's own root.")]
NameArgument = Annotated[str, typer.Argument(help="A vertical model of the run.")]

PANEL = "One stage of a run"


def add_to(app: typer.Typer) -> None:
    """Add the subcommands, in the order of the stages."""
    commands: tuple[tuple[str, Callable[..., None]], ...] = (
        ("label", label),
        ("train-fm", train_fm),
        ("pseudo-label", pseudo_label),
        ("join", join),
        ("train-vm", train_vm),
        ("bundle", bundle),
        ("judge", judge),
        ("register", register),
        ("smoke-test", smoke_test),
        ("report", report),
    )
    for name, command in commands:
        app.command(name, rich_help_panel=PANEL)(command)


def label(config: ConfigOption, root: RootOption = "") -> None:
    """Attribute feedback to impressions; count late, duplicate and orphan feedback."""
    from exfm_pipelines import steps

    _run(steps.label, config, root)


def train_fm(config: ConfigOption, root: RootOption = "") -> None:
    """Train the foundation model on all domains' stream: each window is tested, then learned once."""
    from exfm_pipelines import steps

    _run(steps.train_foundation, config, root)


def pseudo_label(config: ConfigOption, root: RootOption = "") -> None:
    """Score each impression once, by a foundation model that learned only from earlier data."""
    from exfm_pipelines import steps

    _run(steps.pseudo_label, config, root)


def join(config: ConfigOption, root: RootOption = "") -> None:
    """Join features, labels and pseudo-labels into one dataset of examples."""
    from exfm_pipelines import steps

    _run(steps.join, config, root)


def train_vm(name: NameArgument, config: ConfigOption, root: RootOption = "") -> None:
    """Train one vertical model, with a serving head for labels and an auxiliary head for pseudo-labels."""
    from exfm_pipelines import steps

    _run(lambda run: steps.train_vertical(run, name=name), config, root)


def bundle(name: NameArgument, config: ConfigOption, root: RootOption = "") -> None:
    """Plan one vertical model's shards and write the bundle that serving loads."""
    from exfm_pipelines import steps

    _run(lambda run: steps.make_bundle(run, name=name), config, root)


def judge(config: ConfigOption, root: RootOption = "") -> None:
    """Compare all vertical models with their champions: each figure with its bound and margin."""
    from exfm_pipelines import steps

    _run(steps.judge, config, root)


def register(config: ConfigOption, root: RootOption = "") -> None:
    """Judge all vertical models, and add those that learned new windows to the MLflow registry."""
    from exfm_pipelines import steps

    _run(steps.register, config, root)


def smoke_test(config: ConfigOption, root: RootOption = "") -> None:
    """Serve the first vertical model by its shards and ranker, send one request, and stop."""
    from exfm_pipelines import steps

    _run(steps.smoke_test, config, root)


def report(config: ConfigOption, root: RootOption = "") -> None:
    """Write report.html from the stages' outputs, and summary.json and query.json beside it."""
    from exfm_pipelines import steps

    _run(steps.report, config, root)


def _run(step: Callable[..., object], config: Path, root: str) -> None:
    from exfm_components.run_config import read_run_config
    from exfm_pipelines.local import run_step

    run_step(step, read_run_config(config, root=root))
