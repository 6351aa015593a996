"""`exfm serve`, `exfm score` and `exfm profile`: a bundle online and offline, and a profile of its requests."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from exfm.cli.output import writable

BundleArgument = Annotated[
    str,
    typer.Argument(
        help="A bundle's folder or s3:// URL, or models:/NAME@ALIAS or models:/NAME/VERSION of the registry under "
        "--root."
    ),
]
RootOption = Annotated[str, typer.Option("--root", help="Root of the run that has the embedded registry.")]

PANEL = "Serving"


def add_to(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command("serve", rich_help_panel=PANEL)(serve)
    app.command("score", rich_help_panel=PANEL)(score)
    app.command("replay", rich_help_panel=PANEL)(replay)
    app.command("profile", rich_help_panel=PANEL)(profile)


def serve(
    bundle: BundleArgument,
    http_port: Annotated[int, typer.Option(min=0, max=65_535, help="REST, on 127.0.0.1; 0: any free one.")] = 8080,
    grpc_port: Annotated[int, typer.Option(min=0, max=65_535, help="gRPC, on 127.0.0.1; 0: any free one.")] = 8081,
    settings: Annotated[
        Path | None, typer.Option("--settings", "-s", help="YAML file of the servers' settings: `ranker`, `shard`.")
    ] = None,
    root: RootOption = ".",
) -> None:
    """Start a bundle's shards and ranker on this machine, until SIGTERM or Ctrl-C."""
    from exfm.config import read_yaml
    from exfm.registry.bundles import open_bundle
    from exfm.serving.config import LocalConfig
    from exfm.serving.local.serving import serve_until_stopped

    config = LocalConfig.parse(read_yaml(settings) if settings else {}, source=str(settings))
    with open_bundle(bundle, root=root) as folder:
        serve_until_stopped(folder, http_port=http_port, grpc_port=grpc_port, announce=_print_line, config=config)


def score(
    bundle: BundleArgument,
    query: Annotated[
        Path, typer.Argument(help="A request in the Open Inference Protocol's JSON form, or in the short form.")
    ],
    root: RootOption = ".",
) -> None:
    """Answer a request offline and unsharded, in the same JSON that a ranker answers with."""
    from exfm.models.offline import answer_request
    from exfm.registry.bundles import open_bundle

    with open_bundle(bundle, root=root) as folder:
        print(json.dumps(answer_request(folder, query), indent=2))


def replay(
    bundle: BundleArgument,
    champion: Annotated[str, typer.Argument(help="The bundle that it is compared with, named in the same way.")],
    log: Annotated[str, typer.Option(help="Folder or s3:// URL that exporters of request logs upload to.")],
    max_requests: Annotated[int, typer.Option(min=1, max=100_000, help="Newest requests that are scored.")] = 1_000,
    root: RootOption = ".",
) -> None:
    """Score logged requests by two bundles of a model, and show how far ranks and scores differ."""
    from rich.console import Console
    from rich.table import Table

    from exfm.errors import DataError
    from exfm.registry.bundles import open_bundle
    from exfm.registry.replay import ReplayConfig, checks
    from exfm.registry.replaying import replay as replay_bundles

    config = ReplayConfig(log=log, max_requests=max_requests)
    with open_bundle(bundle, root=root) as own, open_bundle(champion, root=root) as beside:
        found = replay_bundles(own, beside, config)
    if found.problem:
        raise DataError(found.problem)
    table = Table(box=None)
    for column in ("task", "figure", "value"):
        table.add_column(column, no_wrap=True)
    for check in checks(found, config):
        table.add_row(check.task, check.figure, check.found)
    console = Console(width=None if sys.stdout.isatty() else 200)  # in a pipe nothing is cut off
    console.print(table)
    console.print(f"{found}.")


def profile(
    bundle: BundleArgument,
    address: Annotated[str, typer.Option(help="gRPC address of its ranker; empty: the bundle is served here.")] = "",
    query: Annotated[
        Path | None, typer.Option(help="A request in JSON form; empty: the bundle's golden query.")
    ] = None,
    num_requests: Annotated[
        int, typer.Option(min=20, max=100_000, help="Requests, one at a time, after a warm-up.")
    ] = 500,
    out: Annotated[
        str, typer.Option(help="PNG or SVG file for the picture; a file beside it has the numbers of every request.")
    ] = "profile.png",
    root: RootOption = ".",
) -> None:
    """Show how much of a request's latency and CPU time each layer of ranker and shards takes, and draw it."""
    from rich.console import Console

    from exfm.planning.reporting.style import kind_of_drawing
    from exfm.registry.bundles import open_bundle
    from exfm.report.breakdown.profile import profile_requests

    picture = writable(out)
    kind_of_drawing(picture)
    with open_bundle(bundle, root=root) as folder:
        profile_requests(Console(), folder, query=query, address=address, num_requests=num_requests, out=picture)


def _print_line(line: str) -> None:
    print(line, flush=True)
