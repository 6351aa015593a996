"""The report of a window has figures of its rows and examples, and bounds on them stop a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from growing_log import DAY_S, GrowingLog, das_at
from sklearn.metrics import log_loss

from exfm.das.advance import advance
from exfm.das.bounds import broken
from exfm.das.closing import LogState
from exfm.das.config import DasBounds
from exfm.das.drift import drift
from exfm.das.log_tables import Das
from exfm.das.reporting import newest_figures
from exfm.errors import DataError
from exfm.tables.commit import commit, stage

pytestmark = pytest.mark.slow

LOG = {"days": 6, "rows_a_day": 30}
FM = {"fm": None}
"""A foundation model that is not published."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> GrowingLog:
    log = GrowingLog(tmp_path_factory.mktemp("log"), **LOG)
    log.arrive_all()
    return log


def teach(das: Das, *, every: int, revision: int = 1) -> None:
    """Commit pseudo-labels of `click`, of some rows of each complete window."""
    state = LogState.of(das)
    for window in state.windows:
        if state.complete_with(window) is None:
            continue
        rows = pl.int_range(pl.len())
        known = {
            "snapshot": pl.lit("v1"), "age": rows, "click": (0.2 + 0.6 * rows / pl.len()).cast(pl.Float32),
        }  # fmt: skip
        scores = (
            state.unique_impressions(window)
            .sort("id")
            .select(
                "id",
                pl.lit("fm").alias("fm"),
                *(pl.when(rows % every == 0).then(value).alias(name) for name, value in known.items()),
                pl.lit(None, dtype=pl.Float32).alias("stay"),
            )
        )
        table = das.pseudo_labels(pl.Int64())
        files = [stage(table, scores, window=window, part="fm", revision=revision)]
        commit(table, files, item=f"pseudo_labels/fm/{window}", replaces=window, part="fm", revision=revision)


def taught(root: Path, log: GrowingLog, *, every: int) -> Das:
    """Return a system with a foundation model that taught some rows before it ended."""
    das = das_at(root)
    das = replace(das, config=das.config.model_copy(update={"fm_wait": 1_000 * DAY_S}))
    list(advance(das, log.source, foundation_models=FM))
    teach(das, every=every)
    list(advance(das, log.source, foundation_models=FM))
    return das


@pytest.fixture(scope="module")
def das(log: GrowingLog, tmp_path_factory: pytest.TempPathFactory) -> Das:
    """Return a system that was taught every other row."""
    return taught(tmp_path_factory.mktemp("root"), log, every=2)


def test_figures_of_examples_are_those_of_their_rows(das: Das) -> None:
    state = LogState.of(das)
    reports = newest_figures(state, num_windows=100)
    assert len(reports) == len(state.report.files)
    windows = [window for window in sorted(state.report.files) if window in state.examples.files]
    for window in windows:
        figures = reports[sorted(state.report.files).index(window)].values
        rows = state.examples.read([window])
        scored = rows.drop_nulls("pseudo_age.fm")
        rate = scored["label.click"].mean()
        assert isinstance(rate, float)
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
        assert figures["examples", ""] == rows.height
        assert figures["label_rate", "click"] == rows["label.click"].mean()
        assert figures["coverage", "fm"] == pytest.approx(0.5, abs=1 / rows.height)
        assert figures["fm_age", "fm"] == scored["pseudo_age.fm"].mean()
        assert figures["pseudo_label_ne", "fm.click"] == pytest.approx(
            log_loss(scored["label.click"], scored["pseudo.fm.click"]) / entropy
        )
        assert ("pseudo_label_ne", "fm.stay") not in figures
    before, now = (state.examples.read([window])["item"] for window in windows[-2:])
    assert figures["drift", "item"] == drift(before, now)
    assert figures["drift", "domain"] == pytest.approx(0, abs=0.01)


def test_shares_are_of_the_files_since_one_that_closed_a_window_before(das: Das) -> None:
    state = LogState.of(das)
    files = state.arrivals.read([0])
    windows = sorted(state.examples.files)
    late = 0
    for before, window in zip([None, *windows], windows, strict=False):
        since = "" if before is None else state.closed_with(before) or ""
        arrived = files.filter((pl.col("name") > since) & (pl.col("name") <= (state.closed_with(window) or "")))
        figures = {(figure, of): value for figure, of, value in state.report.read([window]).drop("window").iter_rows()}
        for part in ("impressions", "feedback"):
            of_part = arrived.filter(part=part)
            late += of_part["num_late"].sum()
            assert figures["late_share", part] == of_part["num_late"].sum() / of_part["num_rows"].sum()
            assert figures["rejected_share", part] == of_part["num_rejected"].sum() / of_part["num_rows"].sum() > 0
    assert late > 0


def test_daily_runs_and_a_replay_report_the_same(log: GrowingLog, tmp_path: Path) -> None:
    daily, das, replayed = GrowingLog(tmp_path / "log", **LOG), das_at(tmp_path / "daily"), das_at(tmp_path / "replay")
    for day in range(daily.days):
        daily.arrive(day)
        list(advance(das, daily.source, foundation_models={}))
    list(advance(replayed, log.source, foundation_models={}))
    reports = [newest_figures(LogState.of(one), num_windows=100) for one in (das, replayed)]
    assert reports[0] == reports[1]


def test_a_window_out_of_bounds_stops_each_run_with_all_its_figures(das: Das, log: GrowingLog) -> None:
    bounds = DasBounds(min_coverage=0.9, min_label_rate=0.99, max_drift={"domain": 0.5})
    strict = replace(das, config=das.config.model_copy(update={"bounds": bounds}))
    for _ in range(2):
        with pytest.raises(DataError) as error:
            list(advance(strict, log.source, foundation_models=FM))
        assert error.value.exit_code == 2
        for text in (
            "window 1970-01-0",
            "coverage of fm is 0.5, das.bounds.min_coverage is 0.9",
            "label_rate of click is 0.",
            "label_rate of stay is 0.",
        ):
            assert text in str(error.value)
        assert "drift" not in str(error.value)


@pytest.mark.parametrize(
    ("figure", "of", "value", "bounds"),
    [
        ("coverage", "fm", 0.5, {"min_coverage": 0.6}),
        ("label_rate", "click", 0.0, {"min_label_rate": 0.01}),
        ("fm_age", "fm", 2.0, {"max_fm_age": 1}),
        ("pseudo_label_ne", "fm.click", 1.1, {"max_pseudo_label_ne": 1.0}),
        ("late_share", "feedback", 0.1, {"max_late_share": 0.05}),
        ("rejected_share", "impressions", 0.1, {"max_rejected_share": 0.0}),
        ("drift", "item", 0.3, {"max_drift": {"item": 0.25}}),
    ],
)
def test_each_bound_is_off_until_it_is_set(figure: str, of: str, value: float, bounds: dict[str, object]) -> None:
    figures = pl.DataFrame({"figure": [figure], "of": [of], "value": [value]})
    assert broken(figures, DasBounds()) == []
    assert len(broken(figures, DasBounds.parse(bounds, source="the test"))) == 1
    assert broken(figures.with_columns(of=pl.lit("other")), DasBounds(max_drift={"item": 0.25})) == []


def test_examples_that_are_scored_again_have_a_new_report(tmp_path: Path, log: GrowingLog) -> None:
    das = taught(tmp_path, log, every=2)
    before = newest_figures(LogState.of(das), num_windows=100)
    teach(das, every=1, revision=2)
    list(advance(das, log.source, foundation_models=FM))
    after = newest_figures(LogState.of(das), num_windows=100)
    has_examples = [report.values["examples", ""] > 0 for report in before]
    assert sum(has_examples) >= 3
    for was, now, has in zip(before, after, has_examples, strict=True):
        assert now.values.get(("coverage", "fm")) == (1 if has else None)
        changed = {figure for (figure, _), value in now.values.items() if was.values.get((figure, _)) != value}
        assert changed <= {"coverage", "fm_age", "pseudo_label_ne"}
