"""The run of MLflow that has the figures of a log's windows: one for each root, to which each pipeline run adds.

A window's figures are logged once for each revision of its examples, in order of time.
"""

from collections.abc import Iterator

from mlflow.entities import Metric, Run

from exfm.das.closing import LogState
from exfm.das.log_tables import TICKS_PER_SECOND, Das
from exfm.das.reporting import WindowFigures, figures_of
from exfm.registry.mlflow_registry import Registry
from exfm.registry.pipeline_run import key_of
from exfm.registry.runs import ending, log_metrics

ROOT_TAG = "exfm_root"
"""Tag of a log's run: the root that the log's tables are below."""

NOTE_TAG = "mlflow.note.content"
"""Tag of a run's description in MLflow's UI."""

REVISION = "revision"
"""The metric that comes last of a window: all others of its report are there."""


def log_windows(registry: Registry, das: Das, *, name: str) -> list[int]:
    """Log the reports of windows that the run of a log lacks; return these windows, in order of time.

    The run is `<name> log`, and is made with the first report. The metric of a figure is `<figure>/<of>`, or
    `<figure>` of the window itself; its step is the window's index in the tables, and its time the window's end.

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
            run = run or _create(registry, das, name=f"{name} log")
            with ending(registry, run):
                log_metrics(registry, run, [metric for report in reports for metric in _metrics(report, das, run)])
    return [report.window for report in reports]


def _find(registry: Registry, root: str) -> Run | None:
    """Return the oldest run that is of a root, so that two processes which both made one agree."""
    runs = registry.client.search_runs(
        [registry.experiment()], f"tags.{ROOT_TAG} LIKE '%'", order_by=["attributes.start_time ASC"]
    )
    return next((run for run in runs if run.data.tags[ROOT_TAG] == root), None)


def _create(registry: Registry, das: Das, *, name: str) -> Run:
    unit, of_time = ("s since 1970", " Time: the window's end.") if _is_absolute(das) else ("steps", "")
    note = f"Figures of windows. Step: the window's index, its start divided by {das.window_length} {unit}.{of_time}"
    tags = {ROOT_TAG: das.root, NOTE_TAG: note}
    return registry.client.create_run(registry.experiment(), run_name=name, tags=tags)


def _logged(registry: Registry, run: Run) -> set[tuple[int, int]]:
    """Return windows with the revisions that were logged whole."""
    history = registry.client.get_metric_history(run.info.run_id, REVISION)
    return {(metric.step, int(metric.value)) for metric in history}


def _metrics(report: WindowFigures, das: Das, run: Run) -> Iterator[Metric]:
    """Yield a report's metrics.

    Their time is the window's end, so that plots over time show event time; of ordinal time it is the run's start. The
    revision is added to it: of one step MLflow shows the newest, and keeps the same metric once.
    """
    end_ms = das.grid.window(report.window).end // (TICKS_PER_SECOND // 1000)
    base_ms = end_ms if _is_absolute(das) else run.info.start_time
    time_ms = max(0, base_ms) + report.revision  # MLflow takes no time before 1970
    for (figure, of), value in report.values.items():
        yield Metric(key_of(f"{figure}/{of}" if of else figure), value, time_ms, report.window)
    yield Metric(REVISION, report.revision, time_ms, report.window)


def _is_absolute(das: Das) -> bool:
    return das.schema.event_time.kind == "absolute"
