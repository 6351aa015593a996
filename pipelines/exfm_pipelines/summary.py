"""The summary of a finished run on the screen."""

import sys
from pathlib import Path

from rich.console import Console

from exfm.artifact.manifest import parse_json
from exfm.artifact.stores import exists, is_local, read_file
from exfm.evaluation.comparison import Comparison
from exfm.report.console import print_summary
from exfm.report.distillation.table import print_comparison
from exfm.report.summary import Summary
from exfm_components import layout
from exfm_components.run_config import RunConfig


def show_summary(config: RunConfig) -> None:
    """Print the run's table of qualities, its report, the ranked answer, and how to send the request again.

    Of a run whose models have learned nothing yet, print what they wait for.
    """
    path = layout.summary(config.root)
    if not exists(path):
        print(
            "No vertical model has learned yet. Run again when more of the log has arrived; `exfm progress` says more."
        )
        return
    summary = Summary.parse(parse_json(read_file(path), source=path), source=path)
    print_summary(summary, console=Console(file=sys.stdout), report=_short(layout.report(config.root)))
    name = config.vertical_models[0].name
    # Lines to be copied: they must not be wrapped.
    served = _short(layout.bundles(config.root, name))
    print(f"\nTo send the request again: {sys.argv[0]} serve {served}   (the demo's: make serve), then")
    query = layout.query(config.root)
    body = _short(query) if is_local(query) else f"query.json   # which is {query}"
    print(f"  curl -s http://127.0.0.1:8080/v2/models/{name}/infer -H 'Content-Type: application/json' -d @{body}")


def show_comparison(config: RunConfig) -> None:
    """Print the tables of the run's comparison of methods, and its page."""
    comparison = Comparison.read(layout.comparison(config.root))
    print_comparison(comparison, console=Console(file=sys.stdout), page=_short(layout.comparison_page(config.root)))


def _short(path: str) -> str:
    """Return a local path relative to the current folder where it lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if is_local(path) and Path(path).is_relative_to(here) else path
