import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from report_run import WARMUP_WINDOWS, Run
from rich.console import Console

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.manifest import json_bytes
from exfm.artifact.plan import Assignment, assign
from exfm.errors import ConfigError, DataError, StorageError
from exfm.evaluation.comparison import Comparison
from exfm.events.sources import about, load
from exfm.metrics.quality import quality
from exfm.models.offline import answer_request
from exfm.report.comparison import NUM_BINS
from exfm.report.console import print_summary
from exfm.report.distillation.figures import DASH, change
from exfm.report.html import counts, embedded, plots_of, render_html, size, span, times
from exfm.report.plots import bytes_by_shard, entropy_by_window, ids_by_window, reliability_curves
from exfm.report.summary import BundleSummary, Summary
from exfm.schema import time_text
from exfm.tables.grid import WINDOW
from exfm.training.evaluation import predictions_of

pytestmark = pytest.mark.slow

TASKS = ("click", "conversion")


def page_of(summary: Summary) -> str:
    return render_html(summary, plots_of(summary))


def test_the_foundation_models_quality_is_of_its_own_predictions_on_the_verticals_domains(
    run: Run, summary: Summary
) -> None:
    fm = run.model("fm")
    predictions = predictions_of(fm, fm.windows[WARMUP_WINDOWS:]).filter(pl.col("segment") == "search")
    for task in TASKS:
        columns = (predictions[f"{kind}.{task}"].to_numpy() for kind in ("score", "label", "weight"))
        assert summary.verticals[0].tasks[task].qualities["foundation.fm"] == quality(*columns)


def test_a_verticals_quality_is_what_its_training_found(run: Run, summary: Summary) -> None:
    manifest = run.model("search")
    for task, comparison in summary.verticals[0].tasks.items():
        assert comparison.qualities["vertical"] == manifest.overall[task]
        assert comparison.qualities["foundation.fm"].num_examples == manifest.overall[task].num_examples
        for line in ("base_rate", "logistic"):
            assert comparison.qualities[line] == manifest.references[line][task]
        by_window = {row.window: row.entropies["vertical"] for row in comparison.by_window}
        for window in manifest.qualities:
            assert by_window.get(window.window) == window.tasks[task].normalized_entropy


def test_no_model_beats_the_planted_truth(summary: Summary) -> None:
    qualities = summary.verticals[0].tasks["click"].qualities
    truth = qualities["truth"]
    assert truth.normalized_entropy is not None
    fms = ("foundation.fm", "foundation.clicks")
    assert list(qualities) == ["base_rate", "logistic", *fms, "vertical", "truth"]
    for found in qualities.values():
        assert found.normalized_entropy is not None
        assert truth.num_examples == found.num_examples
        assert truth.normalized_entropy < found.normalized_entropy + 0.01


def test_what_distillation_gains_is_on_the_page_and_the_terminal(summary: Summary) -> None:
    assert summary.comparison
    gains = list(summary.comparison.gains())
    assert [gain[:3] for gain in gains] == [("search", task, "auto") for task in TASKS]
    for task, compared in summary.comparison.verticals[0].tasks.items():
        assert compared.num_examples == summary.verticals[0].tasks[task].qualities["vertical"].num_examples
    page, file = _Page(page_of(summary)).text, io.StringIO()
    print_summary(summary, console=Console(file=file, width=100), report="report.html")
    for *_, found in gains:
        shown = change(found.delta_ne, unit=0.01)
        assert shown != DASH
        assert shown in page
        assert shown in file.getvalue()


def test_a_report_without_a_comparison_says_nothing_of_gains(run: Run, tmp_path: Path) -> None:
    summary = run.report(tmp_path, comparison="")
    assert summary.comparison is None
    assert "What distillation gains" not in page_of(summary)


def test_a_comparison_of_other_examples_is_refused_and_nothing_written(run: Run, tmp_path: Path) -> None:
    comparison = Comparison.read(run.comparison)
    stale = comparison.examples.model_copy(update={"version": comparison.examples.version - 1})
    other = tmp_path / "other.json"
    other.write_bytes(json_bytes(comparison.model_copy(update={"examples": stale}).to_dict()))
    told = rf"is of {stale.table}, version {stale.version}, .*; run `exfm distill compare` again, or remove"
    with pytest.raises(StorageError, match=told):
        run.report(tmp_path / "out", comparison=str(other))
    assert not (tmp_path / "out").exists()


def test_reliability_bins_split_all_known_examples_and_average_to_the_calibration(summary: Summary) -> None:
    comparison = summary.verticals[0].tasks["click"]
    bins, found = comparison.reliability, comparison.qualities["vertical"]
    assert len(bins) == NUM_BINS
    assert sum(part.num_examples for part in bins) == found.num_examples
    predictions = [part.mean_prediction for part in bins]
    assert predictions == sorted(predictions)
    sizes = [part.num_examples for part in bins]  # the weights of this log are all 1
    mean_prediction = np.average(predictions, weights=sizes)
    base_rate = np.average([part.positive_share for part in bins], weights=sizes)
    assert found.base_rate == pytest.approx(base_rate)
    assert found.calibration == pytest.approx(mean_prediction / base_rate)


def test_the_ratio_to_the_largest_vertical_is_stated(run: Run, summary: Summary) -> None:
    sizes = [run.model(name).num_parameters for name in ("search", "video")]
    for fm in summary.foundations:
        assert fm.times_largest_vertical == fm.num_parameters / max(sizes)
        assert fm.keeps_promise() == (fm.num_parameters >= 10 * max(sizes))


def test_ages_are_in_hours_and_never_negative(run: Run, summary: Summary) -> None:
    examples = run.model("search").examples()
    rows = examples.state.read(examples.state.files, columns=["pseudo_age.fm", "pseudo_snapshot.fm", WINDOW])
    ages, snapshots = (rows[column].drop_nulls() for column in ("pseudo_age.fm", "pseudo_snapshot.fm"))
    pseudo_labels = summary.foundations[0].pseudo_labels
    timeliness = pseudo_labels.timeliness
    assert timeliness.unit == "hours"
    assert timeliness.overall is not None
    assert timeliness.overall.mean == pytest.approx(float(ages.to_numpy().mean()) / 3600)
    assert timeliness.overall.max == pytest.approx(int(ages.to_numpy().max()) / 3600)
    assert timeliness.overall.min >= 0
    assert set(timeliness.by_window) == set(rows.drop_nulls()[WINDOW])
    assert (pseudo_labels.num_scored, pseudo_labels.num_unscored) == (len(ages), rows.height - len(ages))
    assert pseudo_labels.num_snapshots == snapshots.n_unique()
    assert pseudo_labels.newest_snapshot == snapshots[-1] == max(snapshots)


def test_each_row_that_arrived_has_one_fate(run: Run, summary: Summary) -> None:
    data, log = summary.data, load(run.source)
    assert sum(data.impressions.values()) == log.impressions.height == 3_000
    assert sum(data.feedback.values()) == log.feedback.height
    assert data.impressions["examples"] == run.model("search").examples().num_examples()
    assert data.impressions["pending"] > 0, "labels of the last windows are not known"
    text = re.sub(r"\s+", " ", _Page(page_of(summary)).text)
    assert f"What became of 3,000 impressions: {counts(data.impressions)}." in text
    assert f"rows of feedback: {counts(data.feedback)}." in text


def test_fates_that_no_row_met_are_left_out() -> None:
    assert counts({"attached": 1234, "late": 0, "other_kind": 2}) == "1,234 attached, 2 other kind"


def test_the_page_counts_windows_from_the_runs_first(run: Run, summary: Summary) -> None:
    windows, counted = summary.data.windows, summary.verticals[0].counted_windows
    assert windows == run.model("search").examples().windows
    text = re.sub(r"\s+", " ", _Page(page_of(summary)).text)
    assert f"0 to {len(windows) - 1}: {time_text(windows[0].start, kind='absolute')}" in text
    assert f"{WARMUP_WINDOWS} to {len(windows) - 1} ({len(counted)} windows); first {WARMUP_WINDOWS} are" in text
    ids = summary.foundations[0].ids
    numbered = dict(enumerate(ids.values()))
    assert ids_by_window(ids, first=windows[0].index) == ids_by_window(numbered, first=0)


def test_shards_hold_what_the_plan_says(summary: Summary) -> None:
    (bundle,) = summary.bundles
    held = {part.table: part.size_bytes for shard in bundle.shards for part in shard}
    assert held == {"segment": 64 * 12, "user": 16384 * 12, "ad": 8192 * 12, "advertiser": 512 * 12, "topic": 128 * 12}


def test_copies_of_hot_rows_are_named(run: Run, summary: Summary) -> None:
    manifest = BundleManifest.read(Path(run.bundles[0].uri))
    plan = manifest.plan
    assignments = [Assignment(s.table, s.shard, s.first_row, s.num_rows) for s in plan.slices]
    assignments.append(Assignment("user", 0, 0, 1024, hot=True))
    slices = assign(manifest.feature_schema, assignments, plan.num_shards)
    bundle = BundleSummary.of(manifest.model_copy(update={"plan": plan.model_copy(update={"slices": slices})}))
    hot = [(part.table, part.num_rows) for shard in bundle.shards for part in shard if part.kind == "hot"]
    assert hot == [("user", 1024)]
    page = page_of(summary.model_copy(update={"bundles": (bundle,)}))
    assert "user 32.0 KiB (copy of 1,024 hot rows)" in page
    assert "Hot rows are the rows of a table that requests use most" in page
    assert "hot rows" not in page_of(summary).lower()
    assert b"copies of hot rows" in bytes_by_shard([bundle])
    assert b"hot rows" not in bytes_by_shard(summary.bundles)


def test_the_ranked_list_is_sorted_and_named(run: Run, summary: Summary) -> None:
    names = about(run.source, run.das.schema).names["ad_id"]
    request = {item["name"]: item["data"] for item in run.smoke_test["request"]["inputs"]}
    answer = {item["name"]: item["data"] for item in run.smoke_test["answer"]["outputs"]}
    best = sorted(zip(answer["click"], request["ad_id"], strict=True), key=lambda pair: -pair[0])[:10]
    assert [(item.scores["click"], item.id) for item in summary.answer.ranked] == best
    assert [item.rank for item in summary.answer.ranked] == list(range(1, 11))
    assert [item.name for item in summary.answer.ranked] == [names[ad] for _, ad in best]


def test_ids_of_a_feature_that_shares_a_table_are_named_too(summary: Summary, run: Run) -> None:
    request = {item["name"]: item["data"] for item in run.smoke_test["request"]["inputs"]}
    clicked = request["clicked_ads"]
    assert summary.answer.user["user_id"] == str(request["user_id"][0])
    assert summary.answer.user["clicked_ads"].startswith(f"Ad {clicked[-1]} " if clicked else "none")


def test_summary_json_holds_the_summary(run: Run, summary: Summary) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"JSON has no {constant}")

    text = (run.root / "summary.json").read_text(encoding="utf-8")
    assert Summary.parse(json.loads(text, parse_constant=refuse), source="summary.json") == summary


def test_query_json_is_a_request_that_the_first_model_answers_as_the_report_says(run: Run, summary: Summary) -> None:
    answer = answer_request(Path(run.bundles[0].uri), run.root / "query.json")
    assert sorted(answer["outputs"][0]["data"], reverse=True)[:10] == pytest.approx(
        [item.scores["click"] for item in summary.answer.ranked], abs=1e-6
    )


class _Page(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "poster"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_loads_nothing_and_runs_no_script(run: Run, summary: Summary) -> None:
    text = (run.root / "report.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert text == page_of(summary)
    assert page.loads
    assert all(load.startswith("data:image/svg+xml;base64,") for load in page.loads)
    assert page.tags.isdisjoint({"script", "link", "iframe", "object"})
    assert not re.search(r"https?://|url\(|@import", text)


def test_the_page_names_every_model_table_note_and_ranked_item(run: Run, summary: Summary) -> None:
    page = _Page((run.root / "report.html").read_text(encoding="utf-8"))
    text = re.sub(r"\s+", " ", page.text)
    expected = [*(vertical.name for vertical in summary.verticals), *summary.data.notes, summary.data.source]
    expected += [item.name for item in summary.answer.ranked]
    expected += [
        summary.answer.bundle_id,
        *(ref.uri for ref in run.verticals),
        run.model("search").tables["examples"].table,
    ]
    expected += [word for fm in summary.foundations for word in (fm.name, fm.pseudo_labels.newest_snapshot)]
    for words in expected:
        assert words in text


def test_a_name_cannot_write_into_the_page(summary: Summary) -> None:
    evil = summary.model_copy(update={"name": "<script>alert(1)</script>"})
    assert "<script" not in page_of(evil)


def test_an_undefined_figure_is_a_dash(run: Run, summary: Summary) -> None:
    video = summary.verticals[1]
    assert video.counted_windows == ()
    assert video.tasks["click"].qualities["vertical"].auc is None
    page = (run.root / "report.html").read_text(encoding="utf-8")
    row = page[page.index("<th>video</th>") :]
    row = row[: row.index("</tr>")]
    figures = re.findall(r'<td class="n[^>]*>\s*([^<]*?)\s*</td>', row)
    assert figures == [DASH] * 12
    assert "None" not in page


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_shows_quality_the_report_and_the_ranked_answer(summary: Summary, width: int) -> None:
    file = io.StringIO()
    path = "/a/rather/long/folder/that/would/be/broken/in/two/if/the/path/were/wrapped/at/eighty/report.html"
    print_summary(summary, console=Console(file=file, width=width), report=path)
    printed = file.getvalue()
    assert path in printed
    assert all(len(line) <= width for line in printed.splitlines() if path not in line)
    click = summary.verticals[0].tasks["click"]
    row = next(line for line in printed.splitlines() if line.startswith("search") and " click " in line)
    shown = [found for source, found in click.qualities.items() if source != "truth"]
    entropies = [row.index(f"{found.normalized_entropy:.4f}") for found in shown]
    assert entropies == sorted(entropies)
    assert f"{click.qualities['vertical'].auc:.4f}" in row
    ranking = printed[printed.index(" item ") :]
    positions = [ranking.index(item.name) for item in summary.answer.ranked]
    assert positions == sorted(positions)
    assert "\x1b" not in printed  # a file gets no colours


def test_a_model_that_is_worse_than_the_base_rate_is_said_to_be_in_the_first_lines(summary: Summary) -> None:
    warning = "search is worse than the base rate on click: NE difference +0.0123"
    warned = summary.model_copy(update={"warnings": (warning,)})
    text = re.sub(r"\s+", " ", _Page(page_of(warned)).text)
    assert text.index(warning) < text.index("2 foundation models were trained once")
    file = io.StringIO()
    print_summary(warned, console=Console(file=file, width=100), report="report.html")
    assert file.getvalue().startswith(warning)
    assert warned.headline().startswith(f"{warning}; 2 vertical models")


def test_warnings_are_those_of_all_models(run: Run, summary: Summary) -> None:
    manifests = [run.model(name) for name in ("fm", "clicks", "search", "video")]
    assert summary.warnings == tuple(warning for manifest in manifests for warning in manifest.warnings())


def test_reference_lines_and_ids_are_plotted(run: Run, summary: Summary) -> None:
    plot = entropy_by_window(summary.verticals[0], foundations=("fm", "clicks"), first=0)
    for line in (
        b"base rate",
        b"logistic regression",
        b"foundation model fm",
        b"foundation model clicks",
        b"vertical model",
    ):
        assert b"<!-- %b -->" % line in plot
    manifest = run.model("fm")
    fm = summary.foundations[0]
    assert fm.ids == {quality.window: quality.tables for quality in manifest.qualities}
    assert sum(found["user"].num_ids for found in fm.ids.values()) == summary.data.impressions["examples"]
    for model in (fm, *summary.verticals):
        plot = ids_by_window(model.ids, first=0)
        for words in (b"unseen ids, %", b"user", b"ad", b"topic"):
            assert b"<!-- %b -->" % words in plot


def test_the_page_has_all_plots_and_each_says_of_which_model(summary: Summary) -> None:
    plots = plots_of(summary)
    of_verticals = {f"{kind}-{name}" for kind in ("entropy", "reliability", "ids") for name in ("search", "video")}
    of_foundations = {f"{kind}-{name}" for kind in ("age", "ids") for name in ("fm", "clicks")}
    assert set(plots) == {"windows", "shards"} | of_verticals | of_foundations
    page = render_html(summary, plots)
    for plot in plots.values():
        assert plot.startswith(b"<?xml")
        assert embedded(plot) in page


def legend_ends(svg: bytes) -> list[float]:
    """Return where each text of a plot's legend ends, in points from the left; its last letter counts as 6."""
    legend = svg.decode().partition('id="legend_1"')[2]
    texts = re.findall(r'<g transform="translate\(([\d.]+) [\d.]+\) scale\(([\d.]+)(.*?)</g>', legend, re.DOTALL)
    return [
        float(left) + float(scale) * max(map(float, re.findall(r'<use [^>]*"translate\(([\d.]+)', letters))) + 6
        for left, scale, letters in texts
    ]


def test_legends_lie_within_their_plots(summary: Summary) -> None:
    names = [fm.name for fm in summary.foundations]
    search = summary.verticals[0]
    for plot in (reliability_curves(search), entropy_by_window(search, foundations=names, first=0)):
        width = float(plot.decode().partition('width="')[2].partition("pt")[0])
        ends = legend_ends(plot)
        assert len(ends) >= 2
        assert max(ends) < width


def test_the_headline_has_the_least_and_the_greatest_entropy(summary: Summary) -> None:
    found = [task.qualities["vertical"].normalized_entropy for task in summary.verticals[0].tasks.values()]
    low, high = sorted(entropy for entropy in found if entropy is not None)
    assert summary.model_copy(update={"warnings": ()}).headline() == f"2 vertical models, NE {low:.4f} to {high:.4f}"


def test_a_smoke_test_of_another_bundle_is_refused_and_nothing_written(run: Run, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="served bundle other"):
        run.report(tmp_path, smoke_test=run.smoke_test | {"bundle_id": "other"})
    assert list(tmp_path.iterdir()) == []


def test_a_score_that_is_no_number_is_refused(run: Run, tmp_path: Path) -> None:
    outputs = [output | {"data": [float("nan"), *output["data"][1:]]} for output in run.smoke_test["answer"]["outputs"]]
    with pytest.raises(DataError, match="score 0 of task 'click' is nan"):
        run.report(tmp_path, smoke_test=run.smoke_test | {"answer": {"outputs": outputs}})


def test_an_incomplete_smoke_test_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="latency_ms"):
        run.report(tmp_path, smoke_test={key: value for key, value in run.smoke_test.items() if key != "latency_ms"})


def test_a_run_without_vertical_models_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="found none"):
        run.report(tmp_path, verticals=())


def test_an_output_that_was_written_again_is_refused(run: Run, tmp_path: Path) -> None:
    stale = run.foundations[0].model_copy(update={"digest": "0" * 64})
    with pytest.raises(StorageError, match="written again"):
        run.report(tmp_path, foundations=(stale,))


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ((), "none"),
        ((3,), "3 to 3 (1 window)"),
        ((2, 3, 4), "2 to 4 (3 windows)"),
        ((2, 4), "2 to 4 (2 windows, those with examples)"),
    ],
)
def test_a_span_of_windows_says_if_it_has_gaps(indices: tuple[int, ...], text: str) -> None:
    assert span(indices) == text


def test_a_size_has_binary_units() -> None:
    assert [size(12), size(1536), size(5 * 2**20), size(2**31)] == ["12 B", "1.5 KiB", "5.0 MiB", "2.0 GiB"]


def test_a_ratio_is_rounded_down() -> None:
    assert [times(9.998), times(10.0), times(10.0035)] == ["9.99", "10.00", "10.00"]
