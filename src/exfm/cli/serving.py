"""`exfm serve` and `exfm score`: a bundle online and offline."""

import json
from pathlib import Path
from typing import Annotated

import typer

BundleArgument = Annotated[
    str, typer.Argument(help="A bundle's folder, or models:/NAME@ALIAS of the registry under --root.")
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
    from exfm.serving.local import serve_until_stopped

    serve_until_stopped(_folder(bundle, root), http_port=http_port, grpc_port=grpc_port, announce=_say)


def score(
    bundle: BundleArgument,
    query: Annotated[Path, typer.Argument(help="A request in the Open Inference Protocol's JSON form.")],
    root: RootOption = ".",
) -> None:
    """Answer a request offline and unsharded, in the same JSON that a ranker answers with."""
    from exfm.models.scoring import answer_request

    print(json.dumps(answer_request(_folder(bundle, root), query), indent=2))


def _folder(bundle: str, root: str) -> Path:
    """Return a bundle's folder; an alias is resolved here, so that serving never asks the registry."""
    if not bundle.startswith("models:/"):
        return Path(bundle)
    from exfm.registry.mlflow_registry import Registry

    return Path(Registry(root).resolve(bundle).uri)


def _say(line: str) -> None:
    print(line, flush=True)
