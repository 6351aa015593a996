"""The report as one HTML page, with all plots in it and without scripts."""

import base64
import math
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from exfm.report.comparison import TRUTH, foundation
from exfm.report.das_plots import figures_by_window
from exfm.report.distillation.figures import change, figure, judged, line_name, method_name, number, share
from exfm.report.plots import age_by_window, bytes_by_shard, entropy_by_window, ids_by_window, reliability_curves
from exfm.report.summary import PROMISED_TIMES, Summary
from exfm.schema import time_text


def plots_of(summary: Summary) -> dict[str, bytes]:
    """Return the page's plots as SVG, by names that say what each shows and of which model."""
    first = summary.data.windows[0].index
    plots = {"windows": figures_by_window(summary.data, first=first), "shards": bytes_by_shard(summary.bundles)}
    ids = {fm.name: fm.ids for fm in summary.foundations} | {one.name: one.ids for one in summary.verticals}
    for vertical in summary.verticals:
        plots[f"entropy-{vertical.name}"] = entropy_by_window(
            vertical, foundations=summary.trained_foundations(), first=first
        )
        plots[f"reliability-{vertical.name}"] = reliability_curves(vertical)
    for name, of_model in ids.items():
        if of_model:
            plots[f"ids-{name}"] = ids_by_window(of_model, first=first)
    for fm in summary.foundations:
        if fm.pseudo_labels.timeliness.overall:
            plots[f"age-{fm.name}"] = age_by_window(fm.pseudo_labels.timeliness, first=first)
    return plots


def render_html(summary: Summary, plots: Mapping[str, bytes]) -> str:
    """Return the page with its plots, which `plots_of` draws; it counts windows from the run's first one."""
    pages, first = environment(), summary.data.windows[0].index
    pages.filters["numbered"] = lambda windows: tuple(window - first for window in windows)
    pages.globals["time"] = lambda time: time_text(time, kind=summary.data.time_kind)
    return pages.get_template("report.html.jinja").render(
        summary=summary,
        promised_times=PROMISED_TIMES,
        has_truth=any(TRUTH in task.qualities for vertical in summary.verticals for task in vertical.tasks.values()),
        has_hot=any(part.kind == "hot" for bundle in summary.bundles for shard in bundle.shards for part in shard),
        plots=plots,
    )


def environment() -> Environment:
    """Return what fills templates, with the filters that all pages use."""
    pages = Environment(
        loader=PackageLoader("exfm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "figure": figure, "duration": duration, "embedded": embedded, "size": size, "span": span, "times": times,
        "change": change, "share": share, "judged": judged, "method_name": method_name, "number": number,
        "line_name": line_name,
        "foundation": foundation, "counts": counts,
    }  # fmt: skip
    return pages


def duration(value: float, unit: str) -> str:
    """Return an age as text, from two days on also in days."""
    text = f"{value:,.1f} {unit}"
    return f"{text} ({value / 24:,.1f} days)" if unit == "hours" and value >= 48 else text


def counts(rows: Mapping[str, int]) -> str:
    """Return numbers of rows as text, by what became of them; without those of which there are none."""
    return ", ".join(f"{count:,} {fate.replace('_', ' ')}" for fate, count in rows.items() if count)


def size(size_bytes: int) -> str:
    """Return a size as text, in the largest unit that leaves at least 1."""
    for exponent, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size_bytes >= 2**exponent:
            return f"{size_bytes / 2**exponent:,.1f} {unit}"
    return f"{size_bytes} B"


def span(indices: tuple[int, ...]) -> str:
    """Return ascending window indices as a short text."""
    if not indices:
        return "none"
    gapless = indices[-1] - indices[0] == len(indices) - 1
    count = f"{len(indices)} window{'s' if len(indices) > 1 else ''}"
    return f"{indices[0]} to {indices[-1]} ({count}{'' if gapless else ', those with examples'})"


def times(ratio: float) -> str:
    """Return a ratio as text, rounded down, so that a ratio just below a bound does not look as if it met it."""
    return f"{math.floor(100 * ratio) / 100:.2f}"


def embedded(svg: bytes) -> str:
    """Return a picture as a data URL."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
