"""The progress of a data augmentation system on a terminal."""

import re
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exfm.das.progress import ModelProgress, Progress
from exfm.report.das_figures import summary

_DASH = "-"

_UNITS_S = {"days": 86_400, "h": 3_600, "min": 60}
"""Of times for people, each in seconds; below two of the last one a time is in seconds."""


def print_progress(progress: Progress, *, console: Console) -> None:
    """Print where the log and each stage stand, the models, what became of rows, and the newest window's figures."""
    console.print(Text(f"The log is complete until {progress.watermark or 'no time yet'}"))
    stages = _table("stage", "done", "due")
    stages.add_column("waiting for", overflow="fold")
    for stage in progress.stages:
        waiting = "\n".join(f"{count:,} for {reason}" for reason, count in stage.waiting.items())
        stages.add_row(Text(stage.stage), f"{stage.done:,}", f"{stage.due:,}", Text(waiting))
    console.print(stages)
    if progress.models:
        console.print(_models(progress.models))
    if any(model.newest for model in progress.models):
        console.print(_entropies(progress.models))
    for part, counts in progress.rows.items():
        became = ", ".join(
            f"{count:,} {state.replace('_', ' ')}" for state, count in counts.items() if state != "arrived"
        )
        console.print(Text(f"{part}: {counts['arrived']:,} rows = {became}"))
    if progress.newest:
        console.print(Text(f"window {progress.newest.start}: {summary(progress.newest)}"))


def _models(models: Sequence[ModelProgress]) -> Table:
    """Return how far each model is, and how long it takes to learn what is due."""
    table = _table("model", "learned", "until", "behind", "due", "examples/s", "remaining")
    for model in models:
        table.add_row(
            Text(model.name),
            f"{model.learned:,}",
            _to_the_minute(model.until) or _DASH,
            _to_the_minute(model.age) or _DASH,
            f"{model.due:,}",
            _DASH if model.examples_per_s is None else f"{model.examples_per_s:,.0f}",
            _DASH if model.remaining_s is None else _duration(model.remaining_s),
        )
    return table


def _entropies(models: Sequence[ModelProgress]) -> Table:
    """Return what each model's predictions before learning are worth."""
    table = _table("model", "task", "NE of its newest window", "NE after the warm-up")
    table.columns[1].justify = "left"
    for model in models:
        for place, (task, entropy) in enumerate(model.newest.items()):
            figures = (_entropy(one) for one in (entropy, model.overall.get(task)))
            table.add_row(Text("" if place else model.name), Text(task), *figures)
    return table


def _table(first: str, *others: str) -> Table:
    """Return a table whose columns are aligned right, but the first one."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(first, overflow="fold")
    for head in others:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _entropy(value: float | None) -> str:
    return _DASH if value is None else f"{value:.4f}"


def _to_the_minute(text: str) -> str:
    """Return a time or a span of event time without seconds; a span below a minute is in seconds, steps stay."""
    if below_a_minute := re.fullmatch(r"0:00:([\d.]+)", text):
        return _duration(float(below_a_minute[1]))
    return re.sub(r"(\d+:\d\d):[\d.]+Z?$", r"\1", text).replace("T", " ")


def _duration(time_s: float) -> str:
    """Return a time as people write it, in the largest unit of which it has two."""
    for unit, unit_s in _UNITS_S.items():
        if time_s >= 2 * unit_s:
            return f"{time_s / unit_s:,.0f} {unit}"
    return f"{time_s:,.0f} s"
