"""The results of a run as text, printed at its end."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exfm.evaluation.comparison import Comparison
from exfm.report.answer import Answer
from exfm.report.comparison import VERTICAL, foundation
from exfm.report.distillation.figures import change, figure, judged, method_name
from exfm.report.distillation.table import STYLES
from exfm.report.summary import Summary
from exfm.training.manifest import BASE_RATE, LOGISTIC


def print_summary(summary: Summary, *, console: Console, report: str) -> None:
    """Print the models' quality, what distillation gains, the path of the report, and the ranked answer."""
    for warning in summary.warnings:
        console.print(Text(warning, style="red"))
    console.print(_quality_table(summary))
    console.print()
    if summary.comparison:
        console.print(_gain_table(summary.comparison))
        console.print()
    console.print(Text(f"Report: {report}"), soft_wrap=True)  # so that the path can be copied
    console.print()
    console.print(_question(summary.answer))
    console.print(_answer_table(summary.answer))


def _quality_table(summary: Summary) -> Table:
    table = _table()
    table.add_column("vertical", overflow="fold")
    table.add_column("task", overflow="fold")
    heads = {
        BASE_RATE: "base\nrate NE", LOGISTIC: "logistic\nNE",
        **{foundation(name): f"FM {name}\nNE" for name in summary.trained_foundations()},
        VERTICAL: "VM\nNE",
    }  # fmt: skip
    for head in heads.values():
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("\nAUC", justify="right", no_wrap=True)
    for vertical in summary.verticals:
        for task, comparison in vertical.tasks.items():
            qualities = comparison.qualities
            table.add_row(
                Text(vertical.name),
                Text(task),
                *(figure(qualities[source].normalized_entropy if source in qualities else None) for source in heads),
                figure(qualities[VERTICAL].auc),
            )
    return table


def _gain_table(comparison: Comparison) -> Table:
    table = _table()
    for head in ("vertical", "task", "method"):
        table.add_column(head, overflow="fold")
    table.add_column("NE", justify="right", no_wrap=True)
    table.add_column("change from label-only, 0.01", justify="right", no_wrap=True)
    for vertical, task, method, quality in comparison.gains():
        style = STYLES[judged(quality.delta_ne, less_is_better=True)]
        entropy = quality.normalized_entropy
        table.add_row(
            Text(vertical),
            Text(task),
            method_name(method),
            figure(entropy.value if entropy else None),
            Text(change(quality.delta_ne, unit=0.01), style=style),
        )
    return table


def _question(answer: Answer) -> Text:
    user = "; ".join(f"{feature} {value}" for feature, value in answer.user.items())
    return Text(f"{answer.model_name} ranks {answer.num_candidates} candidates for {user}:")


def _answer_table(answer: Answer) -> Table:
    task = next(iter(answer.ranked[0].scores))
    table = _table()
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("item", overflow="fold")
    table.add_column(task, justify="right", no_wrap=True)
    for item in answer.ranked:
        table.add_row(str(item.rank), Text(item.name), f"{item.scores[task]:.4f}")
    return table


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
