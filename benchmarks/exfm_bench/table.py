"""Findings as tables, for a page (Markdown) and for a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

COLOURS = {"met": "green", "not met": "red", "not resolved": "yellow"}


@dataclass(frozen=True)
class Table:
    """Rows of text under heads; of the columns the first `num_words` hold words, the others numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_words: int = 1

    def markdown(self) -> str:
        """Return it for a page."""
        rules = ["---" if place < self.num_words else "--:" for place in range(len(self.heads))]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (self.heads, rules, *self.rows))

    def rich(self) -> RichTable:
        """Return it for a terminal."""
        table = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for place, head in enumerate(self.heads):
            table.add_column(head, justify="left" if place < self.num_words else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
        return table
