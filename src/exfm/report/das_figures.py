"""Figures of windows of a data augmentation system, as a line and as a table."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exfm.das.reporting import WindowFigures

_DASH = "-"


def summary(window: WindowFigures) -> str:
    """Return a window's examples, shares, ages and entropies, and its largest drift, in one line."""
    drifts = {of: value for (figure, of), value in window.values.items() if figure == "drift"}
    chosen = {
        (figure, of): value
        for (figure, of), value in window.values.items()
        if figure == "examples" or (of and figure != "drift")
    }
    found = [f"{_name(figure, of)} {_number(value)}" for (figure, of), value in chosen.items()]
    if drifts:
        most = max(drifts, key=drifts.__getitem__)
        found.append(f"largest drift {most} {_number(drifts[most])}")
    return ", ".join(found)


def print_figures(windows: Sequence[WindowFigures], *, console: Console) -> None:
    """Print a line for each figure, with a column for each window."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("window", no_wrap=True)
    for window in windows:
        table.add_column(Text(window.start.replace("T", "\n")), justify="right", no_wrap=True)
    for figure, of in dict.fromkeys(key for window in windows for key in window.values):
        values = (window.values.get((figure, of)) for window in windows)
        table.add_row(Text(_name(figure, of)), *(_DASH if value is None else _number(value) for value in values))
    console.print(table)


def _name(figure: str, of: str) -> str:
    return " ".join(filter(None, [figure.replace("_", " "), of]))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() or abs(value) >= 1000 else f"{value:.4f}"
