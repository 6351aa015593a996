"""`exfm pipelines`: what a Kubeflow cluster runs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exfm.cli.output import here
from exfm.cli.steps import ConfigOption

if TYPE_CHECKING:
    from exfm_pipelines.server import Server

RootOption = Annotated[str, typer.Option("--root", help="Where outputs go, instead of the file's own root.")]
ImageOption = Annotated[str, typer.Option(help="Image of the steps, REPOSITORY@sha256:DIGEST; empty: exfm-pipelines.")]
HostOption = Annotated[str, typer.Option(help="URL of Kubeflow Pipelines; empty: the kubeconfig's cluster.")]
TokenOption = Annotated[str, typer.Option(help="Bearer token; empty: KFP_TOKEN of the environment, or none.")]
ExperimentOption = Annotated[str, typer.Option(help="The experiment that runs belong to.")]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="In multi-user mode: namespace of the profile, where the steps run.")
]


def add_to(app: typer.Typer) -> None:
    """Add the subcommands."""
    group = typer.Typer(help="Compile and submit pipelines for a Kubeflow cluster.", no_args_is_help=True)
    group.command("compile")(compile_run)
    group.command("components")(components)
    group.command("submit")(submit_run)
    group.command("schedule")(schedule_run)
    group.command("status")(status)
    app.add_typer(group, name="pipelines", rich_help_panel="The whole path")


def compile_run(
    config: ConfigOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the YAML files.")] = Path("build/pipelines"),
    image: ImageOption = "",
    root: RootOption = "",
    namespace: NamespaceOption = "",
) -> None:
    """Compile a run's pipeline: a file to upload in Kubeflow's UI, and one of objects for kubectl apply."""
    from exfm_components.run_config import read_run_config
    from exfm_components.stages import IMAGE
    from exfm_pipelines.compile import compile_objects, compile_pipeline

    run, folder, image = read_run_config(config, root=root), here(str(out)), image or IMAGE
    print(compile_pipeline(run, folder, image=image))
    print(compile_objects(run, folder, image=image, namespace=namespace))


def components(
    out: Annotated[Path, typer.Option("--out", help="Folder for the YAML files.")] = Path("build/components"),
    image: ImageOption = "",
) -> None:
    """Write each component as a YAML file, for pipelines of your own (docs/components.md)."""
    from exfm_components.catalogue import compile_components
    from exfm_components.stages import IMAGE

    for file in compile_components(here(str(out)), image=image or IMAGE):
        print(file)


def submit_run(
    config: ConfigOption,
    image: ImageOption = "",
    root: RootOption = "",
    host: HostOption = "",
    token: TokenOption = "",
    namespace: NamespaceOption = "",
    experiment: ExperimentOption = "exfm",
    until: Annotated[
        str, typer.Option(help="The log is complete up to this time: a date in UTC, or a number in its unit.")
    ] = "",
) -> None:
    """Upload a version of a run's pipeline, start it, and follow it to its end."""
    from exfm_components.data_augmentation import das_of
    from exfm_components.run_config import read_run_config
    from exfm_components.stages import IMAGE
    from exfm_pipelines.submit import submit

    run, server = read_run_config(config, root=root), _server(host, token, namespace)
    if until:
        das_of(run).time_of(until)  # an error before the work
    submit(run, image=image or IMAGE, server=server, experiment=experiment, report=_print_line, until=until)


def schedule_run(
    config: ConfigOption,
    cron: Annotated[str, typer.Option(help="Minute, hour, day, month and weekday in UTC, such as '0 3 * * *'.")],
    image: ImageOption = "",
    root: RootOption = "",
    host: HostOption = "",
    token: TokenOption = "",
    namespace: NamespaceOption = "",
    experiment: ExperimentOption = "exfm",
) -> None:
    """Make a run's recurring run what its file says; the same again changes nothing."""
    from exfm_components.run_config import read_run_config
    from exfm_components.stages import IMAGE
    from exfm_pipelines.schedule import schedule

    run, server = read_run_config(config, root=root), _server(host, token, namespace)
    print(schedule(run, cron=cron, image=image or IMAGE, server=server, experiment=experiment))


def status(
    config: ConfigOption,
    root: RootOption = "",
    host: HostOption = "",
    token: TokenOption = "",
    namespace: NamespaceOption = "",
    runs: Annotated[int, typer.Option(min=1, max=100, help="The newest runs that are shown; 1 to 100.")] = 5,
) -> None:
    """Show a run's schedule and newest runs in Kubeflow, what of its windows is done and due, and its champions.

    Champions, and why a newer version does not serve, need MLFLOW_TRACKING_URI.
    """
    from exfm.cli.data_augmentation import show_progress
    from exfm.cli.deployment import show_standings
    from exfm_components.run_config import read_run_config
    from exfm_pipelines.status import status_of

    run = read_run_config(config, root=root)
    for line in status_of(run, server=_server(host, token, namespace), num_runs=runs):
        print(line)
    show_progress(run)
    show_standings(model.name for model in run.vertical_models)


def _server(host: str, token: str, namespace: str) -> "Server":
    from exfm_pipelines.server import Server

    return Server(host=host, token=token or os.environ.get("KFP_TOKEN", ""), namespace=namespace)


def _print_line(line: str) -> None:
    print(line, flush=True)
