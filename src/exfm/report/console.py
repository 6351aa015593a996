"""The results of a run as text, printed at its end."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exfm.metrics import Quality
from exfm.report.answer import Answer
from exfm.report.html import DASH, figure, percent
from exfm.report.summary import Summary


def print_summary(summary: Summary, *, console: Console, report: str) -> None:
    """Print the models' quality, the path of the report, and the ranked answer to the query."""
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
    for model in ("FM", "label-only", "distilled"):
        table.add_column(f"{model}\nNE    AUC", justify="right", no_wrap=True)
    table.add_column("NE\nchange", justify="right", no_wrap=True)
    for vertical in summary.verticals:
        for task, comparison in vertical.tasks.items():
            change = comparison.change_percent
            style = "" if change is None else "green" if change < 0 else "red"
            table.add_row(
                Text(vertical.name),
                Text(task),
                *(_pair(quality) for quality in (comparison.foundation, comparison.label_only, comparison.distilled)),
                Text(percent(change), style=style),
            )
    return table


def _pair(quality: Quality | None) -> Text:
    if quality is None:
        return Text(DASH)
    return Text(f"{figure(quality.normalized_entropy):>6} {figure(quality.auc):>6}")


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
