"""`exfm serve` and `exfm score`: a bundle online and offline."""

import json
from pathlib import Path
from typing import Annotated

import typer

BundleArgument = Annotated[
    str, typer.Argument(help="A bundle's folder or s3:// URL, or models:/NAME@ALIAS of the registry under --root.")
]
RootOption = Annotated[str, typer.Option("--root", help="The root of the run whose embedded registry is meant.")]

PANEL = "Serving"


def add_to(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command("serve", rich_help_panel=PANEL)(serve)
    app.command("score", rich_help_panel=PANEL)(score)


def serve(
    bundle: BundleArgument,
    http_port: Annotated[int, typer.Option(min=0, max=65_535, help="REST, on 127.0.0.1; 0: any free one.")] = 8080,
    grpc_port: Annotated[int, typer.Option(min=0, max=65_535, help="gRPC, on 127.0.0.1; 0: any free one.")] = 8081,
    root: RootOption = ".",
) -> None:
    """Start a bundle's shards and ranker on this machine, until SIGTERM or Ctrl-C."""
    from exfm.registry.bundles import open_bundle
    from exfm.serving.local import serve_until_stopped

    with open_bundle(bundle, root=root) as folder:
        serve_until_stopped(folder, http_port=http_port, grpc_port=grpc_port, announce=_say)


def score(
    bundle: BundleArgument,
    query: Annotated[Path, typer.Argument(help="A request in the Open Inference Protocol's JSON form.")],
    root: RootOption = ".",
) -> None:
    """Answer a request offline and unsharded, in the same JSON that a ranker answers with."""
    from exfm.models.offline import answer_request
    from exfm.registry.bundles import open_bundle

    with open_bundle(bundle, root=root) as folder:
        print(json.dumps(answer_request(folder, query), indent=2))


def _say(line: str) -> None:
    print(line, flush=True)
