"""A run's plots as SVG, drawn without a display; the same figures give the same bytes.

Axes count windows from the run's first one, whose index is `first`: those of the tables have many digits.
"""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import RcKeyType

from exfm.planning.reporting import style
from exfm.report.comparison import VERTICAL, ReliabilityBin, TaskComparison, foundation
from exfm.report.summary import BundleSummary, VerticalSummary
from exfm.report.timeliness import Timeliness
from exfm.training.manifest import BASE_RATE, LOGISTIC, TableIds

# Okabe and Ito's palette is distinct for people with any colour vision.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, SKY, PURPLE, YELLOW, VERMILION)
"""Colours of tables, and of lines with intervals, in turn."""

HOT_HATCH = "////"

STYLES: dict[str, dict[str, Any]] = {
    BASE_RATE: {"label": "base rate", "color": SKY, "linestyle": "-.", "marker": ""},
    LOGISTIC: {"label": "logistic regression", "color": GREEN, "linestyle": "-.", "marker": ""},
    VERTICAL: {"label": "vertical model", "color": BLUE, "linestyle": "-", "marker": "o"},
}
"""By source of predictions; foundation models have colours of their own."""
FOUNDATION_COLOURS = (BLACK, ORANGE, PURPLE, VERMILION, YELLOW)
"""Colours of foundation models, in turn."""

SETTINGS: dict[RcKeyType, Any] = {**style.SETTINGS, "lines.linewidth": 1.6, "lines.markersize": 3.5}


def entropy_by_window(vertical: VerticalSummary, *, foundations: Sequence[str], first: int) -> bytes:
    """Return each task's normalized entropy over the windows, of every source, with the warm-up shaded."""
    styles = STYLES | {
        foundation(name): {"label": f"foundation model {name}", "color": colour, "linestyle": ":", "marker": ""}
        for name, colour in zip(foundations, cycle(FOUNDATION_COLOURS), strict=False)
    }
    with mpl.rc_context(SETTINGS):
        figure, axes = _panels(len(vertical.tasks), width=6.4, height=2.3)
        for axis, (task, comparison) in zip(axes, vertical.tasks.items(), strict=True):
            _draw_entropy(axis, comparison, styles=styles, counted=vertical.counted_windows, first=first)
            axis.set_ylabel(f"{task}\nnormalized entropy")
        axes[-1].set_xlabel("window")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        return svg(figure)


def reliability_curves(vertical: VerticalSummary) -> bytes:
    """Return each task's share of positives against the vertical model's predictions, by deciles."""
    with mpl.rc_context(SETTINGS):
        figure, axes = _panels(len(vertical.tasks), width=3.2, height=2.3)
        for axis, (task, comparison) in zip(axes, vertical.tasks.items(), strict=True):
            _draw_reliability(axis, comparison.reliability)
            axis.set_ylabel(f"{task}\nshare of positives")
        axes[-1].set_xlabel("mean prediction of a decile")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        return svg(figure)


def age_by_window(timeliness: Timeliness, *, first: int) -> bytes:
    """Return the mean age of each window's pseudo-labels, between the youngest and the oldest."""
    with mpl.rc_context(SETTINGS):
        figure, (axis,) = _panels(1, width=6.4, height=2.4)
        windows, ages = _numbers(timeliness.by_window, first=first), list(timeliness.by_window.values())
        axis.vlines(
            windows, [age.min for age in ages], [age.max for age in ages],
            color=SKY, linewidth=3, label="youngest to oldest",
        )  # fmt: skip
        axis.plot(windows, [age.mean for age in ages], color=BLUE, linestyle="", marker="o", label="mean")
        axis.set(xlabel="window", ylabel=f"age, {timeliness.unit}", ylim=(0, None))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=2)
        return svg(figure)


def ids_by_window(ids: Mapping[int, Mapping[str, TableIds]], *, first: int) -> bytes:
    """Return each table's share of ids that were new in a window, and of all until then that share a row."""
    tables = list(dict.fromkeys(table for of_window in ids.values() for table in of_window))
    with mpl.rc_context(SETTINGS):
        figure, axes = _panels(2, width=6.4, height=1.6)
        for axis, field, label in zip(
            axes, ("unseen", "collisions"), ("unseen ids, %", "ids that share\na row, %"), strict=True
        ):
            for table, colour in zip(tables, cycle(COLOURS), strict=False):
                shares = [
                    getattr(of_window[table], field) if table in of_window else None for of_window in ids.values()
                ]
                axis.plot(
                    _numbers(ids, first=first), 100 * np.array(shares, dtype=np.float64), color=colour, label=table
                )
            axis.set(ylabel=label, ylim=(0, None))
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[-1].set_xlabel("window")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
        return svg(figure)


def bytes_by_shard(bundles: Sequence[BundleSummary]) -> bytes:
    """Return the size of each shard of each bundle: a bar for a shard, a part for a table, hatched for hot rows."""
    tables = dict.fromkeys(part.table for bundle in bundles for shard in bundle.shards for part in shard)
    colours = dict(zip(tables, cycle(COLOURS), strict=False))
    bars = [(f"{bundle.name}, shard {i}", shard) for bundle in bundles for i, shard in enumerate(bundle.shards)]
    with mpl.rc_context(SETTINGS):
        figure, (axis,) = _panels(1, width=6.4, height=0.9 + 0.28 * len(bars))
        for position, (_, shard) in enumerate(bars):
            left_kib = 0.0
            for part in shard:
                size_kib = part.size_bytes / 2**10
                hatch = HOT_HATCH if part.kind == "hot" else ""
                axis.barh(position, size_kib, left=left_kib, color=colours[part.table], height=0.7, hatch=hatch)
                left_kib += size_kib
        axis.set_yticks(range(len(bars)), [name for name, _ in bars])
        axis.invert_yaxis()
        axis.grid(visible=False, axis="y")
        axis.set_xlabel("KiB of embedding rows")
        handles = [Patch(color=colour, label=table) for table, colour in colours.items()]
        if any(part.kind == "hot" for _, shard in bars for part in shard):
            handles.append(Patch(facecolor="white", edgecolor=BLACK, hatch=HOT_HATCH, label="copies of hot rows"))
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))
        return svg(figure)


def _draw_entropy(
    axis: Axes, comparison: TaskComparison, *, styles: Mapping[str, dict[str, Any]], counted: Sequence[int], first: int
) -> None:
    windows, counted = (_numbers(of, first=first) for of in ([row.window for row in comparison.by_window], counted))
    series = {source: [row.entropies.get(source) for row in comparison.by_window] for source in styles}
    warmup = [window for window in windows if window not in counted]
    if warmup:
        axis.axvspan(min(warmup) - 0.5, max(warmup) + 0.5, color="#eeeeee", label="warm-up, not counted")
    shown = [window for window in windows if window in counted] or windows
    low, high = limits([v for values in series.values() for w, v in zip(windows, values, strict=True) if w in shown])
    for source, values in series.items():
        if any(value is not None for value in values):
            draw_within(axis, windows, values, low=low, high=high, style=styles[source])
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _numbers(windows: Iterable[int], *, first: int) -> list[int]:
    """Return the numbers of windows within the run, from 0."""
    return [window - first for window in windows]


def _draw_reliability(axis: Axes, bins: Sequence[ReliabilityBin]) -> None:
    predictions, shares = [part.mean_prediction for part in bins], [part.positive_share for part in bins]
    limit = 1.05 * max([*predictions, *shares], default=1)
    axis.plot([0, limit], [0, limit], color="#999999", linewidth=1, label="calibrated")
    axis.plot(predictions, shares, **STYLES[VERTICAL])
    axis.set(xlim=(0, limit), ylim=(0, limit))


def draw_within(
    axis: Axes,
    windows: Sequence[int],
    values: Sequence[float | None],
    *,
    low: float,
    high: float,
    style: Mapping[str, Any],
) -> None:
    """Draw values over windows within limits; triangles point to values outside, and None is a gap."""
    axis.plot(windows, np.array(values, dtype=np.float64), **style)
    above = [window for window, value in zip(windows, values, strict=True) if value and value > high]
    below = [window for window, value in zip(windows, values, strict=True) if value and value < low]
    for edge, outside, marker in ((high, above, "^"), (low, below, "v")):
        axis.scatter(outside, [edge] * len(outside), color=style["color"], marker=marker, clip_on=False)
    axis.set_ylim(low, high)


def limits(values: Iterable[float | None]) -> tuple[float, float]:
    """Return the limits of an axis for most values, because with a few outliers all others would look flat."""
    known = [value for value in values if value is not None]
    if not known:
        return 0, 2
    low, high = np.percentile(known, [5, 95])
    margin = 0.3 * (high - low) or 0.01
    return float(low - margin), float(high + margin)


def _panels(count: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, 0.5 + height * count), layout="constrained")
    return figure, list(figure.subplots(count, 1, squeeze=False)[:, 0])


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
