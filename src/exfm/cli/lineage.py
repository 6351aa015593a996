"""`exfm lineage`: what an answer was made from."""

from typing import Annotated

import typer

RootOption = Annotated[
    str,
    typer.Option(
        "--root", help="Root of the run: it has the embedded registry. If tables moved since registration: their root."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="The whole path")(lineage)


def lineage(
    named: Annotated[
        str,
        typer.Argument(
            metavar="VERSION",
            help="models:/NAME@ALIAS, models:/NAME/VERSION, or an answer's model_version: a bundle's id.",
        ),
    ],
    root: RootOption = ".",
) -> None:
    """Draw what a registered version was made from: states, examples, pseudo-labels and labels."""
    from rich.console import Console

    from exfm.registry.lineage import lineage_of
    from exfm.report.lineage import print_lineage

    print_lineage(lineage_of(named, root=root), console=Console())
