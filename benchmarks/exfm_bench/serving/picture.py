"""The ratios to the unsharded server as a picture, drawn without a screen."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from exfm.planning.reporting.style import SETTINGS
from exfm.report.breakdown.picture import legend_of, stack
from exfm_bench.serving.blocks import STATISTICS, Series, Statistic
from exfm_bench.serving.findings import Findings
from exfm_bench.serving.layers import MeanBreakdown
from exfm_bench.serving.measuring import Measured
from exfm_bench.serving.peers import PeersFound
from exfm_bench.serving.sweep import SweepFound
from exfm_bench.serving.tables import TITLES, layers_of, scenario_text
from exfm_bench.serving.targets import TARGETS

SHARDED, SAME, TARGET, PEER = "#0072b2", "#999999", "#d55e00", "#cc79a7"
"""Colours of Okabe and Ito's palette: people with any colour vision can tell these apart."""


def draw(findings: Findings, out: Path) -> None:
    """Write a PNG: each server's ratios with their intervals, layers, the sweep of rows, and other servers' latency.

    A ratio without an interval, of a run that has hardly begun, is hollow.
    """
    bars = [(one, *bar) for one in findings.scenarios for bar in _bars(one)]
    layered = [(what, one, layers[0]) for what, layers in layers_of(findings.scenarios) for one in layers]
    heights = [
        *[1 + 0.24 * len(bars)] * bool(bars),
        *[1.6 + 0.24 * len(layered)] * bool(layered),
        *[3.0] * bool(findings.sweep),
        *[2.5] * bool(findings.peers),
    ]
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(12, sum(heights) or 1), layout="constrained")
        grid = figure.add_gridspec(max(1, len(heights)), len(STATISTICS), height_ratios=heights or None)
        rows = iter(range(len(heights)))
        if bars:
            row = next(rows)
            for column, statistic in enumerate(STATISTICS):
                _draw_ratios(figure.add_subplot(grid[row, column]), bars, statistic, named=column == 0)
            figure.legend(handles=_legend(), loc="outside upper right", ncols=3)
        if layered:
            row = next(rows)
            _draw_layers(figure.add_subplot(grid[row, :2]), figure.add_subplot(grid[row, 2]), layered)
        if findings.sweep:
            _draw_sweep(figure.add_subplot(grid[next(rows), :]), findings.sweep)
        if findings.peers:
            _draw_peers(figure.add_subplot(grid[next(rows), :]), findings.peers)
        figure.savefig(out, format="png", dpi=120)


def _legend() -> list[Line2D]:
    kinds = (("sharded", SHARDED), ("A/A", SAME))
    lines = [Line2D([], [], color=colour, marker="o", label=name) for name, colour in kinds]
    return [*lines, Line2D([], [], color=TARGET, marker="|", markersize=12, linestyle="", label="at most: target")]


def _bars(measured: Measured) -> list[tuple[str, str, Series]]:
    """Return label, colour and series of each server but the first."""
    what = scenario_text(measured)
    variants = [(f"{what}: {variant}", SHARDED, series) for variant, series in measured.sharded]
    return [(f"{what}: A/A", SAME, measured.same), *variants]


def _draw_ratios(
    axis: Axes, bars: Sequence[tuple[Measured, str, str, Series]], statistic: Statistic, *, named: bool
) -> None:
    for place, (measured, _, colour, series) in enumerate(bars):
        ratio = series.ratio(statistic, measured.unsharded)
        axis.plot([ratio.low, ratio.high], [place, place], color=colour, linewidth=2)
        is_known = np.isfinite(ratio.half_width)
        axis.plot(ratio.value, place, color=colour, marker="o", markerfacecolor=None if is_known else "none")
        for target in TARGETS:
            is_of = series is not measured.same
            if is_of and target.statistic == statistic and measured.scenario.candidates in target.candidates:
                axis.plot(target.most, place, color=TARGET, marker="|", markersize=12)
    axis.axvline(1, color="#555555", linewidth=1)
    axis.set_yticks(range(len(bars)), [label if named else "" for _, label, _, _ in bars])
    axis.set_ylim(len(bars) - 0.5, -0.5)
    axis.set_xlabel(f"{TITLES[statistic]}, over the unsharded server's")


def _draw_layers(wall: Axes, cpu: Axes, layered: Sequence[tuple[str, MeanBreakdown, MeanBreakdown]]) -> None:
    """Draw where the time goes at each server, as multiples of what the unsharded one takes in all; behind it, ms.

    `layered` are what is served, a server, and the unsharded one.
    """
    for place, (_, one, unsharded) in enumerate(layered):
        stack(wall, place, one.wall_ms, unit_ms=sum(unsharded.wall_ms.values()))
        stack(cpu, place, one.cpu_ms, unit_ms=sum(unsharded.cpu_ms.values()))
    names = [f"{what}: {one.name}" for what, one, _ in layered]
    for axis, what in ((wall, "latency"), (cpu, "CPU")):
        axis.grid(visible=False, axis="y")
        axis.set_xlim(0, 1.12 * axis.dataLim.x1)
        axis.set_xlabel(f"{what}, over the unsharded server's; ms")
        axis.set_yticks(range(len(names)), names if axis is wall else [""] * len(names))
        axis.set_ylim(len(layered) - 0.5, -0.5)
    wall.set_title("\n")  # room for the legend, which is as wide as both
    handles = legend_of(wall, cpu)
    wall.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8).set_in_layout(False)


def _draw_sweep(axis: Axes, found: SweepFound) -> None:
    rows = [one.rows for one in found.sizes]
    for name, colour, of_all in (
        ("unsharded", SAME, [one.unsharded for one in found.sizes]),
        ("sharded", SHARDED, [one.sharded for one in found.sizes]),
    ):
        medians = [series.median("p50_ms") for series in of_all]
        axis.plot(rows, [one.value for one in medians], color=colour, marker="o", label=name)
        axis.fill_between(rows, [m.low for m in medians], [m.high for m in medians], color=colour, alpha=0.2)
    axis.set(xscale="log", xlabel="rows of each table, at equal requests", ylabel="P50, ms", ylim=(0, None))
    axis.legend()


def _draw_peers(axis: Axes, found: PeersFound) -> None:
    ours = [(found.unsharded, SAME), (found.sharded, SHARDED)]
    bars = [*ours, *((series, PEER) for _, series in found.peers)]
    for place, (series, colour) in enumerate(bars):
        p50 = series.median("p50_ms")
        axis.barh(place, p50.value, color=colour, height=0.6)
        axis.annotate(f" {p50.value:.1f}", (p50.value, place), va="center")
    axis.set_yticks(range(len(bars)), [series.name for series, _ in bars])
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set(xscale="log", xlabel=f"P50, ms: {found.model}, {found.candidates} candidates, one request at a time")
