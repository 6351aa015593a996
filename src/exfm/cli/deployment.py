"""`exfm promote`, `deploy`, `status`, `rollback`, `collect` and `undeploy`: deploying a version, and taking it back."""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exfm.cli.serving import BundleArgument, RootOption

if TYPE_CHECKING:
    from exfm.deploy.config import DeployConfig

NameArgument = Annotated[str, typer.Argument(help="A vertical model.")]
SettingsOption = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file of the deployment's settings.")]
NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", help="Namespace, instead of the settings'.")]
ContextOption = Annotated[str, typer.Option(help="Context of the kubeconfig, instead of its current one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

PANEL = "On a cluster"


def add_to(app: typer.Typer) -> None:
    """Add the subcommands."""
    for command in (promote, deploy, status, rollback, collect, undeploy):
        app.command(command.__name__, rich_help_panel=PANEL)(command)


def promote(
    name: NameArgument,
    version: Annotated[int, typer.Option(min=0, help="0: the candidate.")] = 0,
    rule: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="YAML file with the bounds on how much worse than the champion it may be."),
    ] = None,
    root: RootOption = ".",
) -> None:
    """Make a registered version the champion, if it passed when it was judged against the current champion."""
    from exfm.config import read_yaml
    from exfm.registry.champion import promote as promote_version
    from exfm.registry.mlflow_registry import Registry
    from exfm.registry.promotion import PromotionRule

    registry = Registry.at(root, create=False)
    wanted = version or int(registry.resolve(f"models:/{name}@candidate").version)
    allowed = PromotionRule() if rule is None else PromotionRule.parse(read_yaml(rule), source=str(rule))
    print(f"{name} v{wanted} is the champion ({promote_version(registry, name, wanted, allowed)})")


def deploy(
    bundle: BundleArgument,
    serve_from: Annotated[
        str, typer.Option(help="Where pods read it, if elsewhere: s3://BUCKET/PATH or pvc://CLAIM/PATH.")
    ] = "",
    digest: Annotated[str, typer.Option(help="SHA-256 that the bundle's manifest.json must have.")] = "",
    version: Annotated[int, typer.Option(min=0, max=999_999, help="0: the registry's, or else the next free one.")] = 0,
    config: SettingsOption = None,
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    root: RootOption = ".",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")] = False,
    render: Annotated[
        bool,
        typer.Option("--render", help="Print the objects as YAML, for GitOps; without a cluster; needs --version."),
    ] = False,
) -> None:
    """Roll a bundle out: shards first, then rankers that pass the smoke test; the old version serves meanwhile."""
    from exfm.deploy.cluster import Cluster
    from exfm.deploy.release import served_uri
    from exfm.deploy.stage import Deployable, preview
    from exfm.deploy.stage import deploy as roll_out
    from exfm.deploy.stage import render as rendered
    from exfm.registry.bundles import locate_bundle

    settings = _settings(config, namespace)
    found = locate_bundle(bundle, root=root, digest=digest)
    uri = served_uri(found.ref.uri, serve_from=serve_from)
    located = Deployable(manifest=found.manifest, digest=found.ref.digest, uri=uri, version=version or found.version)
    if render:
        print(rendered(located, settings))
        return
    cluster = Cluster.connect(namespace=settings.namespace, context=context)
    if dry_run:
        print(preview(cluster, located, settings))
    else:
        roll_out(cluster, located, settings, report=_print_line)


def status(
    name: Annotated[str, typer.Argument(help="A vertical model; none: all vertical models.")] = "",
    config: SettingsOption = None,
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show which versions serve, which stay hot for a rollback, and their problems.

    With MLFLOW_TRACKING_URI set, also the champions, and why a newer version does not serve.
    """
    from exfm.deploy.cluster import Cluster
    from exfm.deploy.status import deployed

    settings = _settings(config, namespace)
    rows = deployed(Cluster.connect(namespace=settings.namespace, context=context), vm=name)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    if not rows:
        print(f"nothing is deployed in namespace {settings.namespace}")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for column in ("model", "version", "state", "rankers", "shards", "tables MiB", "bundle", "from"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        size, bundle = f"{row.table_mib:,.1f}", row.bundle_id[:12]
        table.add_row(row.vm, f"v{row.version}", row.state, row.rankers, row.shards, size, bundle, row.uri)
    Console(width=None if sys.stdout.isatty() else 200).print(table)  # in a pipe nothing is cut off
    for row in rows:
        for problem in row.problems:
            print(f"{row.vm} v{row.version}: {problem}")
    show_standings(dict.fromkeys(row.vm for row in rows))


def show_standings(names: Iterable[str]) -> None:
    """Print how the newest versions of vertical models stand to their champions, if the environment names a registry.

    Raises: StorageError if it does not answer.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return
    from exfm.registry.mlflow_registry import Registry
    from exfm.registry.standing import standing

    registry = Registry.at("", create=False)
    for name in names:
        print(standing(registry, name))


def rollback(
    name: NameArgument,
    to: Annotated[int, typer.Option(min=0, help="A version that was served; 0: the one before the current one.")] = 0,
    config: SettingsOption = None,
    namespace: NamespaceOption = "",
    context: ContextOption = "",
) -> None:
    """Serve an earlier version again, with the settings that it had; this is quick while its shards are still there."""
    from exfm.deploy.cluster import Cluster
    from exfm.deploy.stage import roll_back

    settings = _settings(config, namespace)
    cluster = Cluster.connect(namespace=settings.namespace, context=context)
    roll_back(cluster, name, to=to, config=settings if config else None, report=_print_line)


def collect(
    name: NameArgument,
    unfinished: Annotated[
        bool,
        typer.Option("--unfinished", help="Also remove shards of deployments that were killed; none may be under way."),
    ] = False,
    bundles: Annotated[
        str,
        typer.Option(
            metavar="ROOT",
            help="Also remove bundles under this root that no server, rollback or alias uses; the newest stays.",
        ),
    ] = "",
    config: SettingsOption = None,
    namespace: NamespaceOption = "",
    context: ContextOption = "",
) -> None:
    """Remove the shards of earlier versions that have stayed for hot_s."""
    from exfm.deploy.cluster import Cluster
    from exfm_components.bundle_collection import collect_all

    settings = _settings(config, namespace)
    collect_all(
        name,
        root=bundles,
        cluster=Cluster.connect(namespace=settings.namespace, context=context),
        config=settings if config else None,
        with_unfinished=unfinished,
        report=_print_line,
    )


def undeploy(
    name: NameArgument, config: SettingsOption = None, namespace: NamespaceOption = "", context: ContextOption = ""
) -> None:
    """Remove a vertical model with all its versions."""
    from exfm.deploy.cluster import Cluster
    from exfm.deploy.rollout import remove

    settings = _settings(config, namespace)
    remove(Cluster.connect(namespace=settings.namespace, context=context), name, settings, report=_print_line)


def _settings(config: Path | None, namespace: str) -> "DeployConfig":
    from exfm.config import read_yaml
    from exfm.deploy.config import DeployConfig

    settings = DeployConfig() if config is None else DeployConfig.parse(read_yaml(config), source=str(config))
    return DeployConfig.parse(settings.to_dict() | {"namespace": namespace or settings.namespace}, source="--namespace")


def _print_line(line: str) -> None:
    print(line, flush=True)
