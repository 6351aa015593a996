"""Charts of a comparison of strategies, drawn without a display."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exfm.errors import ConfigError
from exfm.planning.config import ShardingConfig
from exfm.planning.reporting.comparison import Row
from exfm.planning.reporting.style import SETTINGS, kind_of_drawing
from exfm.planning.sizes import unit_of

# Okabe and Ito's palette is distinct for people with any colour vision.
COLOURS = {
    "singular": "#999999", "one-shard": "#000000", "capacity-balanced": "#0072b2", "load-balanced": "#e69f00",
    "nsbp": "#009e73", "auto": "#d55e00",
}  # fmt: skip
DASHES = {"nsbp": "--", "auto": ":"}
"""Line styles that show both lines if two strategies have the same placement."""

MEMORY_COLOUR, CORE_COLOUR, TAIL_COLOUR = "#56b4e9", "#0072b2", "#cc79a7"


def draw_comparison(rows: Sequence[Row], config: ShardingConfig, *, title: str, out: Path) -> None:
    """Write charts of the strategies that have a plan: latency, cost, and each shard's bytes and work.

    Raises: ConfigError if `out` is neither PNG nor SVG, or no strategy has a plan.
    """
    kind = kind_of_drawing(out)
    drawn = [row for row in rows if row.candidate and row.prediction]
    if not drawn:
        raise ConfigError(f"{out}: no strategy has a plan, so there is nothing to draw; leave out the drawing")
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        figure.suptitle(title)
        (latency, cost), (held, done) = figure.subplots(2, 2)
        _draw_latency(latency, drawn, config)
        _draw_cost(cost, drawn, config)
        by_shard = [row.candidate.placement.shard_bytes for row in drawn if row.candidate]
        unit, unit_bytes = unit_of(max(int(sizes.max()) for sizes in by_shard))
        _draw_shards(held, drawn, f"{unit} of a shard's tables", [sizes / unit_bytes for sizes in by_shard])
        capacity = config.capacity_bytes / unit_bytes
        if capacity < 2 * held.get_ylim()[1]:  # a higher line would squeeze the shards' own
            held.axhline(capacity, color="#555555", linestyle=":", linewidth=1)
            held.annotate("a shard's memory", (1, capacity), ha="right", va="bottom", fontsize=8)
            held.set_ylim(0, max(1.1 * capacity, held.get_ylim()[1]))
        _draw_shards(
            done,
            drawn,
            "CPU ms of a shard for a request",
            [1e3 * row.candidate.needs.shard_cpu_s for row in drawn if row.candidate],
        )
        figure.legend(*held.get_legend_handles_labels(), loc="outside lower center", ncols=len(drawn))
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def _draw_latency(axis: Axes, rows: Sequence[Row], config: ShardingConfig) -> None:
    for place, row in enumerate(rows):
        if row.prediction:
            axis.plot([row.prediction.p50_ms, row.prediction.p99_ms], [place, place], color=TAIL_COLOUR, linewidth=5)
            axis.plot(row.prediction.p50_ms, place, "o", color="black")
    if config.demand.p99_ms:
        axis.axvline(config.demand.p99_ms, color="#555555", linestyle=":", linewidth=1)
        axis.annotate("objective", (config.demand.p99_ms, -0.5), ha="center", va="bottom", fontsize=8)
    _name_rows(axis, rows)
    axis.set(xlabel="latency, ms: median (dot) to 99th percentile", xlim=(0, None))


def _draw_cost(axis: Axes, rows: Sequence[Row], config: ShardingConfig) -> None:
    cores = np.array([row.candidate.fleet.pods * config.prices.core for row in rows if row.candidate])
    total = np.array([row.candidate.fleet.cost for row in rows if row.candidate])
    axis.barh(range(len(rows)), cores, color=CORE_COLOUR, height=0.6, label="cores")
    axis.barh(range(len(rows)), total - cores, left=cores, color=MEMORY_COLOUR, height=0.6, label="memory")
    for place, row in enumerate(rows):
        if row.candidate:
            pods = f" {row.candidate.fleet.pods:,} pods, {row.candidate.fleet.memory_bytes / 2**30:,.0f} GiB"
            axis.annotate(pods, (total[place], place), va="center", fontsize=8)
    _name_rows(axis, rows)
    axis.set(xlabel="cost", xlim=(0, 1.45 * total.max()))
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _draw_shards(axis: Axes, rows: Sequence[Row], label: str, by_shard: Sequence[Any]) -> None:
    for row, values in zip(rows, by_shard, strict=True):
        if len(values):
            ranks = (np.arange(len(values)) + 0.5) / len(values)
            axis.plot(ranks, np.sort(values)[::-1], color=COLOURS[row.strategy], marker="o", markersize=3,
                      linestyle=DASHES.get(row.strategy, "-"), linewidth=1.6, label=row.strategy)  # fmt: skip
    axis.set(xlabel="shards, from most to least, as a share of all", ylabel=label, xlim=(0, 1), ylim=(0, None))


def _name_rows(axis: Axes, rows: Sequence[Row]) -> None:
    axis.set_yticks(range(len(rows)), [_name(row) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")


def _name(row: Row) -> str:
    if row.is_overloaded:
        return f"{row.strategy}\n(overloaded)"
    return row.strategy if row.meets else f"{row.strategy}\n(misses the objective)"
