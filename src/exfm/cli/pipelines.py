"""`exfm pipelines`: what a Kubeflow cluster runs."""

import os
from pathlib import Path
from typing import Annotated

import typer

from exfm.cli.output import here
from exfm.cli.steps import ConfigOption

RootOption = Annotated[str, typer.Option("--root", help="Where outputs go, instead of the file's own root.")]
ImageOption = Annotated[str, typer.Option(help="Image of the steps, REPOSITORY@sha256:DIGEST; empty: exfm-pipelines.")]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="In multi-user mode: namespace of the profile, where the steps run.")
]


def add_to(app: typer.Typer) -> None:
    """Add the subcommands."""
    group = typer.Typer(help="Compile and submit pipelines for a Kubeflow cluster.", no_args_is_help=True)
    group.command("compile")(compile_run)
    group.command("submit")(submit_run)
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


def submit_run(
    config: ConfigOption,
    image: ImageOption = "",
    root: RootOption = "",
    host: Annotated[str, typer.Option(help="URL of Kubeflow Pipelines; empty: the kubeconfig's cluster.")] = "",
    token: Annotated[str, typer.Option(help="Bearer token; empty: KFP_TOKEN of the environment, or none.")] = "",
    namespace: NamespaceOption = "",
    experiment: Annotated[str, typer.Option(help="The experiment that the run belongs to.")] = "exfm",
) -> None:
    """Upload a version of a run's pipeline, start it, and follow it to its end."""
    from exfm_components.run_config import read_run_config
    from exfm_components.stages import IMAGE
    from exfm_pipelines.submit import submit

    submit(
        read_run_config(config, root=root),
        image=image or IMAGE,
        host=host,
        token=token or os.environ.get("KFP_TOKEN", ""),
        namespace=namespace,
        experiment=experiment,
        report=_print_line,
    )


def _print_line(line: str) -> None:
    print(line, flush=True)
