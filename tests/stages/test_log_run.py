"""Figures of a log's windows in a run of MLflow."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from mlflow.entities import Run
from stream import Stream

from exfm.das.closing import LogState
from exfm.das.log_tables import Das
from exfm.das.reporting import figures_of, newest_figures
from exfm.events.examples import ExampleTable
from exfm.events.schemas import SYNTHETIC
from exfm.registry import log_run, runs
from exfm.registry.log_run import NOTE_TAG, REVISION, log_windows
from exfm.registry.mlflow_registry import Registry
from exfm.schema import Schema
from exfm.tables.commit import commit, stage

pytestmark = pytest.mark.slow

Values = dict[str, dict[int, list[float]]]


@pytest.fixture
def das(tmp_path: Path) -> Das:
    """Return a system whose tables are made by `report`."""
    return Das(root=str(tmp_path), schema=Schema.read(SYNTHETIC), window_length=86_400)


def report(das: Das, window: int, figures: Mapping[tuple[str, str], float], *, revision: int = 1) -> None:
    """Commit a report of a window."""
    table = das.report()
    rows = [(figure, of, value) for (figure, of), value in figures.items()]
    frame = pl.DataFrame(rows, schema=dict(table.columns), orient="row")
    staged = [stage(table, frame, window=window, revision=revision)]
    assert commit(table, staged, item=f"das_report/{window}", revision=revision, replaces=window)


def runs_of(registry: Registry) -> list[Run]:
    return list(registry.client.search_runs([registry.experiment()]))


def logged(registry: Registry) -> Values:
    """Return the values of the only run, by metric and step, in the order of their times."""
    [run] = runs_of(registry)
    found: Values = {}
    for metric in run.data.metrics:
        steps = found.setdefault(metric, defaultdict(list))
        history = registry.client.get_metric_history(run.info.run_id, metric)
        for point in sorted(history, key=lambda point: point.timestamp):
            steps[point.step].append(point.value)
    return found


def test_each_figure_of_each_report_is_a_metric_at_its_windows_step(
    stream: Stream, examples: ExampleTable, registry: Registry
) -> None:
    reports = newest_figures(LogState.of(stream.das), num_windows=100)
    assert log_windows(registry, stream.das, name="ads") == [one.window for one in reports]
    [run] = runs_of(registry)
    assert (run.info.run_name, run.info.status) == ("ads log", "FINISHED")
    expected: Values = {REVISION: {one.window: [float(one.revision)] for one in reports}}
    for one in reports:
        for (figure, of), value in one.values.items():
            expected.setdefault(f"{figure}/{of}" if of else figure, {})[one.window] = [value]
    assert {"coverage/fm", "pseudo_label_ne/fm.click", "late_share/feedback", "drift/ad_id"} <= expected.keys()
    assert logged(registry) == expected


def test_a_later_run_adds_the_windows_that_are_new(das: Das, registry: Registry) -> None:
    report(das, 7, {("examples", ""): 5.0})
    assert log_windows(registry, das, name="ads") == [7]
    assert log_windows(registry, das, name="ads") == []
    report(das, 8, {("examples", ""): 6.0})
    assert log_windows(registry, das, name="ads") == [8]
    assert logged(registry)["examples"] == {7: [5.0], 8: [6.0]}


def test_a_revised_report_is_the_newest_value_of_its_step(das: Das, registry: Registry) -> None:
    report(das, 7, {("coverage", "fm"): 0.5})
    log_windows(registry, das, name="ads")
    report(das, 7, {("coverage", "fm"): 0.25}, revision=2)
    assert log_windows(registry, das, name="ads") == [7]
    assert logged(registry)["coverage/fm"] == {7: [0.5, 0.25]}
    [run] = runs_of(registry)
    assert run.data.metrics["coverage/fm"] == 0.25


def times(registry: Registry, metric: str) -> dict[int, datetime]:
    """Return the time of each point of a metric of the only run, by step."""
    [run] = runs_of(registry)
    history = registry.client.get_metric_history(run.info.run_id, metric)
    return {point.step: datetime.fromtimestamp(point.timestamp / 1000, UTC) for point in history}


def test_a_points_time_is_its_windows_end(das: Das, registry: Registry) -> None:
    for window in (-3, 20_454):
        report(das, window, {("examples", ""): 5.0})
    log_windows(registry, das, name="ads")
    found = times(registry, "examples")
    assert found[20_454].replace(microsecond=0) == datetime(2026, 1, 2, tzinfo=UTC)
    assert found[-3].replace(microsecond=0) == datetime(1970, 1, 1, tzinfo=UTC), "MLflow takes no earlier time"
    [run] = runs_of(registry)
    assert "its start divided by 86400 s since 1970. Time: the window's end." in run.data.tags[NOTE_TAG]


def test_a_step_of_ordinal_time_has_the_runs_time(das: Das, registry: Registry) -> None:
    started = datetime.now(UTC).replace(microsecond=0)
    steps = Schema.parse(das.schema.to_dict() | {"event_time": {"column": "time", "kind": "ordinal"}}, source="test")
    other = replace(das, schema=steps)
    report(other, 7, {("examples", ""): 5.0})
    log_windows(registry, other, name="ads")
    assert started <= times(registry, "examples")[7]


def test_a_window_that_was_logged_in_part_is_logged_once(
    das: Das, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(das, 7, {("coverage", "fm"): 0.5, ("coverage", "other"): 0.25})
    monkeypatch.setattr(runs, "MAX_METRICS", 1)
    with monkeypatch.context() as stopped:
        stopped.setattr(log_run, "REVISION", "no/such//name")  # MLflow refuses the last metric
        with pytest.raises(Exception, match="no/such//name"):
            log_windows(registry, das, name="ads")
    [run] = runs_of(registry)
    assert (run.info.status, run.data.metrics) == ("FAILED", {"coverage/fm": 0.5, "coverage/other": 0.25})
    assert log_windows(registry, das, name="ads") == [7]
    assert logged(registry) == {"coverage/fm": {7: [0.5]}, "coverage/other": {7: [0.25]}, REVISION: {7: [1.0]}}
    assert runs_of(registry)[0].info.status == "FINISHED"


def test_each_root_has_a_run_of_its_own(das: Das, registry: Registry, tmp_path: Path) -> None:
    other = Das(root=str(tmp_path / "it's other"), schema=das.schema, window_length=das.window_length)
    for one in (das, other):
        report(one, 7, {("examples", ""): 5.0})
        assert log_windows(registry, one, name="ads") == [7]
        assert log_windows(registry, one, name="ads") == []
    assert len(runs_of(registry)) == 2


def test_a_name_that_no_metric_can_have_is_changed(das: Das, registry: Registry) -> None:
    report(das, 7, {("drift", "größe (cm)+"): 0.5})
    log_windows(registry, das, name="ads")
    assert logged(registry)["drift/größe _cm__"] == {7: [0.5]}
    assert [one.window for one in figures_of(LogState.of(das), [7])] == [7]
