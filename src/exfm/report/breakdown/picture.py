"""The breakdown as a picture, drawn without a display: latency and CPU time of ranker and shards, stacked."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exfm.planning.reporting.style import SETTINGS, kind_of_drawing
from exfm.report.breakdown.layers import Group, LayerTimes

# Okabe and Ito's palette is distinct for people with any colour vision.
COLOURS = {
    Group.DENSE: "#0072b2", Group.EMBEDDING: "#009e73", Group.FEATURES: "#56b4e9", Group.SERIALIZATION: "#e69f00",
    Group.RPC: "#d55e00", Group.QUEUE: "#000000", Group.WAIT: "#f0e442", Group.NETWORK: "#999999",
}  # fmt: skip


def draw_layers(layer_times: Sequence[LayerTimes], counted_R: npt.NDArray[np.bool_], *, title: str, out: Path) -> None:
    """Write a picture of the mean of the counted requests, by groups of layers.

    Raises: ConfigError if `out` is neither PNG nor SVG.
    """
    kind = kind_of_drawing(out)
    servers = list(dict.fromkeys(one.server for one in layer_times))
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(10, 2.2 + 0.42 * len(servers)), layout="constrained")
        figure.suptitle(title)
        wall, cpu = figure.subplots(1, 2, sharey=True)
        for axis, is_cpu in ((wall, False), (cpu, True)):
            for place, server in enumerate(servers):
                _draw_server(
                    axis, place, [one for one in layer_times if one.server == server], counted_R, is_cpu=is_cpu
                )
            axis.grid(visible=False, axis="y")
            axis.set_xlim(0, 1.12 * axis.dataLim.x1)
        wall.set_yticks(range(len(servers)), servers)
        wall.set_ylim(len(servers) - 0.5, -0.5)
        wall.set_xlabel("latency, ms: a request at its client, a lookup at the ranker")
        cpu.set_xlabel("CPU time of a request, ms")
        figure.legend(handles=legend_of(wall, cpu), loc="outside lower center", ncols=4)
        figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def stack(axis: Axes, place: int, group_ms: Mapping[Group, float], *, unit_ms: float = 1.0) -> None:
    """Draw one bar of groups of layers, as multiples of a unit, with their sum in ms behind it."""
    left = 0.0
    for group in Group:
        width = group_ms.get(group, 0.0) / unit_ms
        if width > 0:
            axis.barh(place, width, left=left, color=COLOURS[group], height=0.62, label=group.value)
            left += width
    axis.annotate(f" {left * unit_ms:.2f}", (left, place), va="center", fontsize=8)


def legend_of(*axes: Axes) -> list[Artist]:
    """Return one handle for each group that was drawn on any of them."""
    handles: dict[str, Artist] = {}
    for axis in axes:
        drawn, labels = axis.get_legend_handles_labels()
        handles |= zip(labels, drawn, strict=True)
    return [handles[group] for group in Group if group in handles]


def _draw_server(
    axis: Axes, place: int, layer_times: Sequence[LayerTimes], counted_R: npt.NDArray[np.bool_], *, is_cpu: bool
) -> None:
    group_ms = dict.fromkeys(Group, 0.0)
    for one in layer_times:
        group_ms[one.group] += float((one.cpu_ms_R if is_cpu else one.wall_ms_R)[counted_R].mean())
    stack(axis, place, group_ms)
