"""The results of a run as text, printed at its end."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exfm.metrics import Quality
from exfm.report.answer import Answer
from exfm.report.comparison import DISTILLED, FOUNDATION, LABEL_ONLY
from exfm.report.html import DASH, figure, percent
from exfm.report.summary import Summary
from exfm.training.manifest import BASE_RATE, LOGISTIC

ENTROPY_HEADS = {
    BASE_RATE: "base\nrate NE", LOGISTIC: "logistic\nNE", FOUNDATION: "FM\nNE", LABEL_ONLY: "label-\nonly NE",
}  # fmt: skip
"""By source of predictions: the head of the column with its normalized entropy."""


def print_summary(summary: Summary, *, console: Console, report: str) -> None:
    """Print the models' quality, the path of the report, and the ranked answer to the query."""
    for warning in summary.warnings:
        console.print(Text(warning, style="red"))
    console.print(_quality_table(summary))
    console.print()
    console.print(Text(f"Report: {report}"), soft_wrap=True)  # so that the path can be copied
    console.print()
    console.print(_question(summary.answer))
    console.print(_answer_table(summary.answer))


def _quality_table(summary: Summary) -> Table:
    table = _table()
    table.add_column("vertical", overflow="fold")
    table.add_column("task", overflow="fold")
    for head in ENTROPY_HEADS.values():
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("distilled\nNE    AUC", justify="right", no_wrap=True)
    table.add_column("NE\nchange", justify="right", no_wrap=True)
    for vertical in summary.verticals:
        for task, comparison in vertical.tasks.items():
            change, qualities = comparison.change_percent, comparison.qualities
            style = "" if change is None else "green" if change < 0 else "red"
            table.add_row(
                Text(vertical.name),
                Text(task),
                *(_entropy(qualities.get(source)) for source in ENTROPY_HEADS),
                f"{_entropy(qualities[DISTILLED])} {figure(qualities[DISTILLED].auc):>6}",
                Text(percent(change), style=style),
            )
    return table


def _entropy(quality: Quality | None) -> str:
    return figure(quality.normalized_entropy) if quality else DASH


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
