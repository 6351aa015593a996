"""A comparison's plots as SVG: drawn without a screen, and the same bytes for the same figures."""

from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exfm.evaluation.amortisation import Amortisation
from exfm.evaluation.comparison import Comparison, VerticalComparison
from exfm.evaluation.config import ComparisonConfig
from exfm.metrics.intervals import Interval
from exfm.report.distillation.figures import method_name
from exfm.report.distillation.series import changes, num_parameters, taught, varied
from exfm.report.plots import BLUE, COLOURS, SETTINGS, svg

COLUMNS = 3
"""Most panels of a row."""

MARKERS = "osD^vPX"
"""Markers of lines, in turn."""

SPREAD = 1.05
"""Ratio of the horizontal places of neighbouring lines' points, so that their intervals can be told apart."""


def changes_by_method(vertical: VerticalComparison) -> bytes:
    """Return each method's change of normalized entropy from label-only, and its calibration, with intervals."""
    with mpl.rc_context(SETTINGS):
        methods = {task: of_task.own().methods for task, of_task in vertical.tasks.items()}
        rows = max(map(len, methods.values()), default=1)
        figure = Figure(figsize=(7.2, (0.8 + 0.26 * rows) * len(vertical.tasks)), layout="constrained")
        axes = figure.subplots(len(vertical.tasks), 2, squeeze=False)
        for (change, calibration), (task, compared) in zip(axes, methods.items(), strict=True):
            _draw(change, {m: q.delta_ne for m, q in compared.items() if q.delta_ne}, unit=0.01, right=0)
            _draw(calibration, {m: q.calibration for m, q in compared.items()}, unit=1, right=1)
            change.set_ylabel(task)
        axes[-1][0].set_xlabel("change of normalized entropy, 0.01")
        axes[-1][1].set_xlabel("calibration")
        return svg(figure)


def changes_by_size(comparison: Comparison) -> bytes:
    """Return every vertical model's change of normalized entropy against the foundation model's size, by method."""
    sizes, methods = num_parameters(comparison), taught(comparison.config)
    lines = [(vertical, task) for vertical in comparison.verticals for task in vertical.tasks]
    with mpl.rc_context(SETTINGS):
        figure, axes = _grid(len(methods))
        for axis, method in zip(axes, methods, strict=True):
            for place, (vertical, task) in enumerate(lines):
                found = changes(vertical, task, method, varied(vertical, comparison.config, "size"))
                points = {sizes[size] * SPREAD ** (place - (len(lines) - 1) / 2): of for size, of in found.items()}
                _line(axis, points, label=f"{vertical.name}, {task}", place=place)
            axis.set_title(method)
            axis.set_xscale("log")
            axis.set_xticks(list(sizes.values()), [_millions(size) for size in sizes.values()])
            axis.minorticks_off()
        _label(figure, axes, "parameters of the foundation model, millions")
        return svg(figure)


def changes_by_age(vertical: VerticalComparison, config: ComparisonConfig) -> bytes:
    """Return each method's change of normalized entropy against the age of snapshots, by task."""
    ages, methods = varied(vertical, config, "age"), taught(config)
    shift = 0.012 * (max(ages) - min(ages))
    with mpl.rc_context(SETTINGS):
        figure, axes = _grid(len(vertical.tasks))
        for axis, task in zip(axes, vertical.tasks, strict=True):
            for place, method in enumerate(methods):
                found = changes(vertical, task, method, ages)
                points = {age + shift * (place - (len(methods) - 1) / 2): of for age, of in found.items()}
                _line(axis, points, label=method, place=place)
            axis.set_title(task)
            axis.set_xticks(list(ages))
        _label(figure, axes, "windows by which snapshots are older")
        return svg(figure)


def cost_by_verticals(costs: Amortisation, *, num_verticals: int) -> bytes:
    """Return the CPU-seconds of each vertical model against how many share the foundation model."""
    numbers = range(1, max(num_verticals, 10) + 1)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        axis = figure.subplots()
        shared = [costs.shared_cpu_s(number) for number in numbers]
        axis.plot(numbers, shared, color=BLUE, marker="o", label="auto, one foundation model for all")
        axis.axhline(costs.shared_cpu_s(1), color=BLUE, linestyle=":", label="auto, a foundation model for each")
        for place, (size, cpu_s) in enumerate(costs.label_only_cpu_s.items(), 1):
            name = "label-only" if size == 1 else f"label-only, {size} times the size"
            axis.axhline(cpu_s, color=COLOURS[place % len(COLOURS)], linestyle="--", label=name)
        axis.set(
            xlabel="vertical models",
            ylabel="CPU-seconds of each",
            ylim=(0, None),
            xticks=numbers[:: len(numbers) // 10],
        )
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper")
        return svg(figure)


def _grid(num_panels: int) -> tuple[Figure, list[Axes]]:
    """Return panels with one vertical axis, at most COLUMNS in a row."""
    columns = 2 if num_panels == 4 else min(num_panels, COLUMNS)
    rows = -(-num_panels // columns)
    figure = Figure(figsize=(9.6 if columns > 1 else 4.8, 0.6 + 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for unused in axes.flat[num_panels:]:
        unused.remove()
    return figure, list(axes.flat[:num_panels])


def _line(axis: Axes, points: Mapping[float, Interval], *, label: str, place: int) -> None:
    """Draw figures with their intervals, in 0.01, as one line."""
    values = [100 * interval.value for interval in points.values()]
    below = [100 * (interval.value - interval.low) for interval in points.values()]
    above = [100 * (interval.high - interval.value) for interval in points.values()]
    axis.errorbar(
        list(points), values, (below, above),
        label=label, color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], elinewidth=1,
    )  # fmt: skip


def _label(figure: Figure, axes: list[Axes], horizontal: str) -> None:
    for axis in axes:
        axis.axhline(0, color="#999999", linewidth=1)
    figure.supxlabel(horizontal, fontsize="medium")
    figure.supylabel("change of normalized entropy, 0.01", fontsize="medium")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)


def _millions(count: int) -> str:
    return f"{count / 1e6:.2g}"


def _draw(axis: Axes, intervals: Mapping[str, Interval | None], *, unit: float, right: float) -> None:
    """Draw figures with their intervals, one row for each method, and a line where they should be or be left of."""
    axis.axvline(right, color="#999999", linewidth=1)
    for place, interval in enumerate(intervals.values()):
        if interval is not None:
            value, low, high = (number / unit for number in (interval.value, interval.low, interval.high))
            axis.plot([low, high], [place, place], color=BLUE, linewidth=2)
            axis.plot([value], [place], color=BLUE, marker="o", markersize=5)
    axis.set_yticks(range(len(intervals)), [method_name(method) for method in intervals])
    axis.set_ylim(max(len(intervals), 1) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
