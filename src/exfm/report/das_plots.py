"""The figures of a data augmentation system over windows, as one picture: a panel for each kind of figure."""

from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from exfm.report.plots import COLOURS, SETTINGS, draw_within, limits, svg
from exfm.report.summary import DataSummary
from exfm.report.timeliness import SECONDS_PER_HOUR

NUM_COLUMNS = 3
"""Columns of the log whose drift is drawn: those that moved most in the newest window."""

ENTROPY = "pseudo-labels'\nnormalized entropy"

DASHES = ("-", "--", ":", "-.")
"""Of lines in turn, so that lines which coincide can be told apart."""

Series = Mapping[str, list[float | None]]
"""A figure's values over windows, by the name of the line; None: the window does not define it."""


def figures_by_window(data: DataSummary, *, first: int) -> bytes:
    """Return the figures of windows as lines; a kind of figure that no window has, has no panel."""
    windows, panels = [report.window - first for report in data.reports], dict(_panels(data))
    rows = -(-len(panels) // 2) or 1
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(9.6, 0.3 + 1.9 * rows), layout="constrained")
        axes = list(figure.subplots(rows, 2, squeeze=False, sharex=True).flat)
        for unused in axes[len(panels) :]:
            unused.remove()
        for axis, (label, series) in zip(axes, panels.items(), strict=False):
            _draw(axis, windows, series, is_entropy=label == ENTROPY)
            axis.set_ylabel(label)
        for axis in axes[: len(panels)][-2:]:
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("window")
        return svg(figure)


def most_drifted(data: DataSummary) -> list[str]:
    """Return the columns that moved most in the newest window whose drift is known, the one that moved most first."""
    newest = next((one.figures["drift"] for one in reversed(data.reports) if "drift" in one.figures), {})
    return sorted(newest, key=lambda column: -newest[column])[:NUM_COLUMNS]


def _panels(data: DataSummary) -> Iterator[tuple[str, Series]]:
    is_absolute = data.time_kind == "absolute"
    shares = [_series(data, f"{fate}_share", unit=0.01, prefix=f"{fate} ") for fate in ("late", "rejected")]
    drifts = _series(data, "drift")
    for label, series in (
        ("examples with\npseudo-labels, %", _series(data, "coverage", unit=0.01)),
        (
            f"pseudo-labels' age,\n{'hours' if is_absolute else 'steps'}",
            _series(data, "fm_age", unit=SECONDS_PER_HOUR if is_absolute else 1),
        ),
        ("label rate, %", _series(data, "label_rate", unit=0.01)),
        (ENTROPY, _series(data, "pseudo_label_ne")),
        ("late and rejected\nrows, %", {name: values for of_fate in shares for name, values in of_fate.items()}),
        ("drift (PSI)", {column: drifts[column] for column in most_drifted(data)}),
    ):
        if series:
            yield label, series


def _series(data: DataSummary, figure: str, *, unit: float = 1.0, prefix: str = "") -> Series:
    found = [report.figures.get(figure, {}) for report in data.reports]
    names = dict.fromkeys(name for values in found for name in values)
    return {f"{prefix}{name}": [values[name] / unit if name in values else None for values in found] for name in names}


def _draw(axis: Axes, windows: list[int], series: Series, *, is_entropy: bool) -> None:
    low, high = limits(value for values in series.values() for value in values)
    for (name, values), colour, dashes in zip(series.items(), cycle(COLOURS), cycle(DASHES), strict=False):
        style: dict[str, Any] = {"label": name, "color": colour, "linestyle": dashes, "marker": "o"}
        if is_entropy:
            draw_within(axis, windows, values, low=low, high=high, style=style)
        else:
            axis.plot(windows, np.array(values, dtype=np.float64), **style)
    if not is_entropy:
        highest = max(value for values in series.values() for value in values if value is not None)
        axis.set_ylim(0, 1.1 * highest or 1)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2)
