"""The page's section on windows has the figures of `exfm das report`."""

import re

import pytest
from report_run import Run

from exfm.das.closing import LogState
from exfm.das.reporting import newest_figures
from exfm.report.das_plots import figures_by_window, most_drifted
from exfm.report.summary import DataSummary, Summary, WindowReport

pytestmark = pytest.mark.slow

LABELS = (b"examples with", b"pseudo-labels' age,", b"label rate, %", b"normalized entropy", b"rows, %", b"drift (PSI)")


def with_reports(summary: Summary, reports: dict[int, dict[str, dict[str, float]]]) -> DataSummary:
    found = tuple(WindowReport(start="", window=window, figures=figures) for window, figures in reports.items())
    return summary.data.model_copy(update={"reports": found})


def texts(plot: bytes) -> list[bytes]:
    """Return the texts of a plot, in order."""
    return re.findall(rb"<!-- (.*?) -->", plot)


def test_the_summary_has_the_figures_that_the_command_shows(run: Run, summary: Summary) -> None:
    shown = newest_figures(LogState.of(run.das), num_windows=100)
    assert len(shown) > 3
    found = {
        report.start: {(figure, of): value for figure, values in report.figures.items() for of, value in values.items()}
        for report in summary.data.reports
    }
    assert found == {window.start: window.values for window in shown}
    assert next(iter(found)) == "2025-12-30T00:00:00Z"
    assert [report.window for report in summary.data.reports] == [window.index for window in summary.data.windows]


def test_each_kind_of_figure_has_a_panel_with_a_line_for_each_thing(summary: Summary) -> None:
    found = texts(figures_by_window(summary.data, first=summary.data.windows[0].index))
    for label in LABELS:
        assert label in found
    lines = [name for name in found if name in {b"fm", b"clicks"}]
    assert lines == [b"fm", b"clicks"] * 2, "coverage, then age"
    assert {b"click", b"conversion", b"fm.click", b"fm.conversion", b"clicks.click"} <= {*found}
    assert {f"{fate} {part}".encode() for fate in ("late", "rejected") for part in ("impressions", "feedback")} <= {
        *found
    }
    assert {column.encode() for column in most_drifted(summary.data)} <= {*found}


def test_windows_are_numbered_from_the_runs_first(summary: Summary) -> None:
    first = summary.data.windows[0].index
    numbered = with_reports(summary, {report.window - first: report.figures for report in summary.data.reports})
    assert figures_by_window(summary.data, first=first) == figures_by_window(numbered, first=0)


def test_the_columns_that_moved_most_in_the_newest_window_are_drawn(summary: Summary) -> None:
    drifts = {"ad": 0.1, "user": 0.3, "price": 0.2, "topic": 0.05}
    reports = {0: {"drift": {"topic": 9.0}}, 1: {"drift": drifts}, 2: {"examples": {"": 0.0}}}
    assert most_drifted(with_reports(summary, reports)) == ["user", "price", "ad"]


def test_a_figure_that_no_window_has_has_no_panel(summary: Summary) -> None:
    reports = {0: {"label_rate": {"click": 0.1}}, 1: {"label_rate": {"click": 0.0}}}
    found = texts(figures_by_window(with_reports(summary, reports), first=0))
    assert [label for label in LABELS if label in found] == [b"label rate, %"]
    assert texts(figures_by_window(with_reports(summary, {}), first=0)) == []
    rejected = {0: {"rejected_share": {"impressions": 0.0}}}
    assert b"rejected impressions" in texts(figures_by_window(with_reports(summary, rejected), first=0))


def test_ages_are_steps_if_time_is_ordinal(summary: Summary) -> None:
    ordinal = summary.data.model_copy(update={"time_kind": "ordinal"})
    assert b"steps" in texts(figures_by_window(ordinal, first=0))
    assert b"hours" in texts(figures_by_window(summary.data, first=0))
