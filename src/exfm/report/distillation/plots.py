"""A comparison's plots as SVG: drawn without a screen, and the same bytes for the same figures."""

from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exfm.evaluation.comparison import VerticalComparison
from exfm.evaluation.intervals import Interval
from exfm.report.distillation.figures import method_name
from exfm.report.plots import BLUE, SETTINGS, svg


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


def _draw(axis: Axes, intervals: Mapping[str, Interval | None], *, unit: float, right: float) -> None:
    """Draw figures with their intervals, one row for each method, and a line where they should be or be left of."""
    axis.axvline(right, color="#999999", linewidth=1)
    for place, interval in enumerate(intervals.values()):
        if interval is not None:
            value, low, high = (number / unit for number in (interval.value, interval.low, interval.high))
            axis.plot([low, high], [place, place], color=BLUE, linewidth=2)
            axis.plot([value], [place], color=BLUE, marker="o", markersize=5)
    axis.set_yticks(range(len(intervals)), [method_name(method) for method in intervals])
    axis.set_ylim(len(intervals) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
