"""What a finished run shows on the screen."""

import json
import sys
from pathlib import Path

from rich.console import Console

from exfm.artifact.storage import join, read_file
from exfm.report.console import print_summary
from exfm.report.summary import Summary
from exfm_components import layout
from exfm_pipelines.run_config import RunConfig


def show_summary(config: RunConfig) -> None:
    """Print the run's table of qualities, its report, the ranked answer, and how to ask again."""
    path = join(config.root, "summary.json")
    summary = Summary.parse(json.loads(read_file(path)), source=path)
    console = Console(file=sys.stdout)
    print_summary(summary, console=console, report=_short(join(config.root, "report.html")))
    name = config.vertical_models[0].name
    served = _short(layout.bundle(config.root, name))
    console.print(
        f"\nTo ask again: [bold]exfm serve {served}[/] (the demo's: [bold]make serve[/]), then", highlight=False
    )
    # One line to be copied: it must not be wrapped.
    print(
        f"  curl -s http://127.0.0.1:8080/v2/models/{name}/infer -H 'Content-Type: application/json' "
        f"-d @{_short(join(config.root, 'query.json'))}"
    )


def _short(path: str) -> str:
    """Return a local path relative to the current folder where it lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
