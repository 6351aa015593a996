"""A comparison on a terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exfm.evaluation.comparison import Comparison, MethodQuality, TaskComparison
from exfm.evaluation.config import Method
from exfm.metrics.intervals import Interval
from exfm.report.distillation.figures import change, figure, judged, line_name, method_name, number, share
from exfm.report.distillation.series import taught

MIN_WIDTH = 160
"""Minimum width, in columns: a wrapped table cannot be read."""

HEADS = ("w, lr", "NE", "NE change", "from kd", "AUC", "AUC change", "calibration", "transfer ratio")
"""Heads of a method's figures."""

STYLES = {"better": "green", "worse": "red", "": ""}


def print_comparison(comparison: Comparison, *, console: Console, page: str) -> None:
    """Print a table for each task of each vertical model, and the path of the page."""
    console.width = max(console.width, MIN_WIDTH)
    for vertical in comparison.verticals:
        for task, compared in vertical.tasks.items():
            base_rate = "" if compared.base_rate is None else f", base rate {compared.base_rate:.3f}"
            console.print(Text(f"{vertical.name}, {task}: {compared.num_examples:,} examples{base_rate}", style="bold"))
            table = _table("method", *HEADS)
            own, settings = compared.own(), vertical.own_settings()
            for line, quality in compared.references.items():
                table.add_row(line_name(line), "", *_figures(quality))
            if own.pseudo_labels is not None:
                table.add_row(f"FM {comparison.foundation_model}", "", *_figures(own.pseudo_labels))
            for method, quality in own.methods.items():
                setting = settings[method]
                table.add_row(
                    method_name(method),
                    f"{number(setting.weight)}, {number(setting.learning_rate)}",
                    *_figures(quality),
                )
            console.print(table)
            if comparison.config.teachers:
                console.print(_variants(compared, taught(comparison.config)))
            console.print()
    console.print(
        "NE, AUC: change from label-only, NE also from kd, in 0.01; [95 % interval]; w, lr: weight, learning rate"
    )
    console.print(Text(f"Comparison: {page}"), soft_wrap=True)  # so that the path can be copied


def _variants(compared: TaskComparison, methods: Sequence[Method]) -> Table:
    """Return the change of NE with every teacher, by method."""
    table = _table("teacher", "pseudo-labels", *methods)
    for teacher, of_teacher in compared.teachers.items():
        qualities = (of_teacher.pseudo_labels, *(of_teacher.methods[method] for method in methods))
        table.add_row(
            teacher, *(_change(quality.delta_ne if quality else None, less_is_better=True) for quality in qualities)
        )
    return table


def _figures(quality: MethodQuality) -> list[Text | str]:
    entropy, auc = quality.normalized_entropy, quality.auc
    return [
        figure(entropy.value if entropy else None),
        _change(quality.delta_ne, less_is_better=True),
        _change(quality.delta_ne_of_kd, less_is_better=True),
        figure(auc.value if auc else None),
        _change(quality.delta_auc, less_is_better=False),
        share(quality.calibration),
        share(quality.transfer_ratio),
    ]


def _change(interval: Interval | None, *, less_is_better: bool) -> Text:
    return Text(change(interval, unit=0.01), style=STYLES[judged(interval, less_is_better=less_is_better)])


def _table(first: str, *heads: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table
