"""The progress of a data augmentation system on a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exfm.das.progress import Progress
from exfm.report.das_figures import summary


def print_progress(progress: Progress, *, console: Console) -> None:
    """Print the watermark, a line for each stage, what became of each part's rows, and the newest window's figures."""
    console.print(Text(f"The log is complete until {progress.watermark or 'no time yet'}"))
    stages = Table(box=SIMPLE_HEAD)
    stages.add_column("stage")
    for head in ("done", "due"):
        stages.add_column(head, justify="right")
    stages.add_column("waiting for", overflow="fold")
    for stage in progress.stages:
        waiting = "\n".join(f"{count:,} for {reason}" for reason, count in stage.waiting.items())
        stages.add_row(Text(stage.stage), f"{stage.done:,}", f"{stage.due:,}", Text(waiting))
    console.print(stages)
    for model in progress.models:
        until = f", until {model.until}, {model.age} before the watermark" if model.until else ""
        console.print(Text(f"{model.name} learned {model.learned:,} windows{until}"))
    for part, counts in progress.rows.items():
        became = ", ".join(
            f"{count:,} {state.replace('_', ' ')}" for state, count in counts.items() if state != "arrived"
        )
        console.print(Text(f"{part}: {counts['arrived']:,} rows = {became}"))
    if progress.newest:
        console.print(Text(f"window {progress.newest.start}: {summary(progress.newest)}"))
