"""A lineage on a terminal."""

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from exfm.das.lineage import Origin


def print_lineage(origin: Origin, *, console: Console) -> None:
    """Print what was made, and below it what it was made from."""
    console.print(_tree(origin))


def _tree(origin: Origin) -> Tree:
    tree = Tree(Text(origin.text))
    tree.children = [_tree(one) for one in origin.made_from]
    return tree
