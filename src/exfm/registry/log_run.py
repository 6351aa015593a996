"""The run of MLflow that has the figures of a log's windows: one for each root, to which each pipeline run adds.

A window's figures are logged once for each revision of its examples, in order of time.
"""

import re
from collections.abc import Iterator

from mlflow.entities import Metric, Run

from exfm.das.closing import LogState
from exfm.das.log_tables import Das
from exfm.das.reporting import WindowFigures, figures_of
from exfm.registry.mlflow_registry import Registry
from exfm.registry.runs import ending, log_metrics

ROOT_TAG = "exfm_root"
"""Tag of a log's run: the root that the log's tables are below."""

REVISION = "revision"
"""The metric that comes last of a window: all others of its report are there."""


def log_windows(registry: Registry, das: Das, *, name: str) -> list[int]:
    """Log the reports of windows that the run of a log lacks; return these windows, in order of time.

    The run is `<name> log`, and is made with the first report. The metric of a figure is `<figure>/<of>`, or
    `<figure>` of the window itself; its step is the window's index on the grid.

    Raises: StorageError if the registry does not answer, or the table of reports cannot be read.
    """
    state = LogState.of(das)
    with registry.reporting():
        run = _find(registry, das.root)
        logged = _logged(registry, run) if run else set()
    table = state.report
    reports = figures_of(state, (w for w in table.files if (w, table.newest_revision(w)) not in logged))
    if reports:
        with registry.reporting():
            run = run or _create(registry, das.root, name=f"{name} log")
            with ending(registry, run):
                log_metrics(registry, run, [metric for report in reports for metric in _metrics(report, run)])
    return [report.window for report in reports]


def _find(registry: Registry, root: str) -> Run | None:
    """Return the oldest run that is of a root, so that two processes which both made one agree."""
    runs = registry.client.search_runs(
        [registry.experiment()], f"tags.{ROOT_TAG} LIKE '%'", order_by=["attributes.start_time ASC"]
    )
    return next((run for run in runs if run.data.tags[ROOT_TAG] == root), None)


def _create(registry: Registry, root: str, *, name: str) -> Run:
    return registry.client.create_run(registry.experiment(), run_name=name, tags={ROOT_TAG: root})


def _logged(registry: Registry, run: Run) -> set[tuple[int, int]]:
    """Return windows with the revisions that were logged whole."""
    history = registry.client.get_metric_history(run.info.run_id, REVISION)
    return {(metric.step, int(metric.value)) for metric in history}


def _metrics(report: WindowFigures, run: Run) -> Iterator[Metric]:
    """Yield a report's metrics.

    Their time follows from the revision: of one step MLflow shows the newest, and keeps the same metric once.
    """
    time_ms = run.info.start_time + report.revision
    for (figure, of), value in report.values.items():
        yield Metric(_key(f"{figure}/{of}" if of else figure), value, time_ms, report.window)
    yield Metric(REVISION, report.revision, time_ms, report.window)


def _key(name: str) -> str:
    """Return a name with `_` for characters that names of metrics cannot have."""
    return re.sub(r"[^\w./ -]", "_", name)
