"""Figures of windows are one line, and a table with a column for each window."""

import io

from rich.console import Console

from exfm.das.reporting import WindowFigures
from exfm.report.das_figures import print_figures, summary

OLD = WindowFigures(
    window=20_458,
    revision=1,
    start="2026-01-05T00:00:00Z",
    values={("examples", ""): 1200.0, ("label_rate", "click"): 0.125},
)
NEW = WindowFigures(
    window=20_459,
    revision=1,
    start="2026-01-06T00:00:00Z",
    values={
        ("examples", ""): 1300.0,
        ("duplicates", ""): 3.0,
        ("coverage", "fm"): 0.5,
        ("drift", "age"): 0.01,
        ("drift", "shop"): 0.3,
    },
)


def test_the_line_has_shares_and_the_largest_drift() -> None:
    assert summary(NEW) == "examples 1,300, coverage fm 0.5000, largest drift shop 0.3000"
    assert summary(OLD) == "examples 1,200, label rate click 0.1250"


def test_the_table_has_each_figure_of_any_window() -> None:
    out = io.StringIO()
    print_figures([OLD, NEW], console=Console(file=out, width=80))
    cells = {tuple(line.split()) for line in out.getvalue().splitlines()}
    assert {
        ("2026-01-05", "2026-01-06"),
        ("examples", "1,200", "1,300"),
        ("label", "rate", "click", "0.1250", "-"),
        ("coverage", "fm", "-", "0.5000"),
        ("drift", "shop", "-", "0.3000"),
        ("duplicates", "-", "3"),
    } <= cells
