"""Subcommands that run one stage of a run; each reads the outputs of earlier stages under the root."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from exfm_components.platform import Step

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The run's YAML file.")]
RootOption = Annotated[str, typer.Option("--root", help="Where outputs are, instead of the file's own root.")]
FoundationArgument = Annotated[str, typer.Argument(metavar="NAME", help="A foundation model of the run.")]
NameArgument = Annotated[str, typer.Argument(help="A vertical model of the run.")]

PANEL = "One stage of a run"


def add_to(app: typer.Typer) -> None:
    """Add the subcommands, in the order of the stages."""
    for command in (label, train_fm, join, train_vm, bundle, judge, register, smoke_test, report):
        app.command(rich_help_panel=PANEL)(command)  # typer names it: `train-fm` for `train_fm`


def label(config: ConfigOption, root: RootOption = "") -> None:
    """Attribute feedback to impressions of windows whose attribution windows are over."""
    _run("label", config, root)


def train_fm(name: FoundationArgument, config: ConfigOption, root: RootOption = "") -> None:
    """Have one foundation model score windows, which gives pseudo-labels, and learn each once it is labelled."""
    _run("train-fm", config, root, model=name)


def join(config: ConfigOption, root: RootOption = "") -> None:
    """Join features, labels and pseudo-labels into one table of examples, and report what became of each row."""
    _run("join", config, root)


def train_vm(name: NameArgument, config: ConfigOption, root: RootOption = "") -> None:
    """Have one vertical model predict, then learn, its domains' examples."""
    _run("train-vm", config, root, model=name)


def bundle(name: NameArgument, config: ConfigOption, root: RootOption = "") -> None:
    """Plan one vertical model's shards and write the bundle that serving loads."""
    _run("bundle", config, root, model=name)


def judge(config: ConfigOption, root: RootOption = "") -> None:
    """Compare all vertical models with their champions: each figure with its bound and margin."""
    _run("judge", config, root)


def register(config: ConfigOption, root: RootOption = "") -> None:
    """Judge all vertical models, and add those that learned new windows to the MLflow registry."""
    _run("register", config, root)


def smoke_test(config: ConfigOption, root: RootOption = "") -> None:
    """Serve the first vertical model by its shards and ranker, send one request, and stop."""
    _run("smoke-test", config, root)


def report(config: ConfigOption, root: RootOption = "") -> None:
    """Write report.html from the stages' outputs, and summary.json and query.json beside it."""
    _run("report", config, root)


def _run(step: "Step", config: Path, root: str, *, model: str = "") -> None:
    from exfm_components.run_config import read_run_config
    from exfm_pipelines.steps import run_step

    run_step(step, read_run_config(config, root=root), model=model)
