"""Methods side by side: on one stream, tuned alike, and reported on windows that tuned nothing."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from stream import Stream

from exfm.artifact.storage import Ref
from exfm.das.advance import learn
from exfm.das.publishing import model_manifest
from exfm.distill.config import DistillationConfig, VerticalConfig
from exfm.distill.line import vertical_line
from exfm.errors import ConfigError, ExfmError, SchemaError, StorageError
from exfm.evaluation.comparison import Comparison, VerticalComparison
from exfm.evaluation.config import ComparisonConfig, Setting
from exfm.evaluation.field import Contender
from exfm.evaluation.harness import split_windows, walk
from exfm.evaluation.stage import compare
from exfm.evaluation.teachers import Teachers
from exfm.events.examples import ExampleTable
from exfm.report.distillation.page import render_page
from exfm.report.distillation.table import print_comparison
from exfm.training.data import Data
from exfm.training.evaluation import predictions_of
from exfm.training.manifest import ModelManifest
from exfm_components.comparison import compare_methods
from exfm_components.run_config import read_run_config

REPOSITORY = Path(__file__).parents[2]

SMALL = ComparisonConfig(
    num_seeds=2, tuning_windows=3, weights=(1.0,), learning_rates=(0.003,), num_bootstrap_samples=100
)

TUNED = SMALL.model_copy(update={"weights": (1.0, 3.0)})
"""With something to choose."""

OWN = Teachers(("fm",))

NONE = ("",)
"""Teachers of a vertical model that no foundation model teaches."""


@pytest.fixture
def data(examples: ExampleTable, vertical_config: VerticalConfig) -> Data:
    schema = examples.schema.select(tasks=vertical_config.tasks)
    return Data(examples, schema, domains=vertical_config.domains, teachers=("fm",))


def with_user(examples: ExampleTable, user: str) -> ExampleTable:
    """Return the same examples with a `user` column in their schema."""
    return replace(examples, schema=examples.schema.model_copy(update={"user": user}))


def manifest_of(ref: Ref) -> ModelManifest:
    return ModelManifest.read(Path(ref.uri))


@pytest.mark.slow
def test_label_scores_are_those_of_a_training_by_labels(
    data: Data, stream: Stream, vertical_config: VerticalConfig
) -> None:
    config = SMALL.model_copy(update={"methods": ("label", "auto"), "num_seeds": 1})
    walked = walk(vertical_config, data, config, OWN)
    training = vertical_config.training.model_copy(update={"learning_rate": 0.003})
    label = vertical_config.model_copy(
        update={
            "training": training,
            "distillation": DistillationConfig(method="label"),
        }
    )
    by_labels = vertical_line(label, stream.schema, teachers=())
    assert len(list(learn(stream.das, by_labels))) == 2 * len(data.windows)
    recorded = predictions_of(model_manifest(stream.das, by_labels), walked.windows)
    assert recorded[data.schema.impression_key].to_list() == walked.keys.to_list()
    label_N = walked.scores[Contender("fm", "label")][0, :, 0]
    assert label_N.dtype == np.float32
    # a saved state has the shrinkage in its head, which rounds elsewhere
    np.testing.assert_allclose(recorded["score.click"].to_numpy(), label_N, rtol=1e-6)
    for line, scores_NT in walked.references.items():
        np.testing.assert_array_equal(recorded[f"{line}.click"].to_numpy(), scores_NT[:, 0])
    assert list(walked.references) == ["base_rate", "logistic"]


@pytest.mark.slow
def test_every_method_walks_over_the_same_examples_and_says_something_else(
    data: Data, vertical_config: VerticalConfig
) -> None:
    walked = walk(vertical_config, data, SMALL, OWN)
    assert [contender.method for contender in walked.scores] == ["label", "kd", "ah", "sa", "ah+sa", "auto", "self"]
    assert {scores.shape for scores in walked.scores.values()} == {(2, len(walked.keys), 1)}
    told = [
        scores for contender, scores in walked.scores.items() if contender.method != "auto"
    ]  # which may say what label does
    assert all(not np.array_equal(one, other) for i, one in enumerate(told) for other in told[:i])
    assert all(not np.array_equal(*scores) for scores in told)  # each seed its own
    assert set(walked.window_N) <= {window.index for window in walked.windows}
    rows = pl.concat([data.frame(window).select("impression_id", "user_id") for window in walked.windows])
    assert walked.users is not None
    assert rows["impression_id"].to_list() == walked.keys.to_list()
    assert rows["user_id"].to_list() == walked.users.to_list()


@pytest.mark.slow
def test_a_setting_that_is_bad_on_the_first_windows_is_not_chosen(data: Data, vertical_config: VerticalConfig) -> None:
    config = SMALL.model_copy(update={"methods": ("label", "kd"), "learning_rates": (1.0, 0.003), "num_seeds": 1})
    chosen = walk(vertical_config, data, config, OWN).chosen
    assert {entry.method: (setting.weight, setting.learning_rate) for entry, setting in chosen.items()} == {
        "label": (0, 0.003),
        "kd": (1, 0.003),
    }


@pytest.mark.slow
def test_windows_that_count_begin_when_the_labels_of_the_tuning_windows_are_known(
    data: Data, vertical_config: VerticalConfig
) -> None:
    tuning, counted = split_windows(vertical_config, data, TUNED)
    warmup = vertical_config.training.warmup_windows
    assert [window.index for window in tuning] == [window.index for window in data.windows[warmup:3]]
    assert data.label_delay == 3600  # less than a window: one window between is not over when the next begins
    assert [window.index for window in counted] == [window.index for window in data.windows[4:]]


@pytest.mark.slow
def test_without_a_choice_nothing_is_tuned_and_figures_count_from_the_warm_up_on(
    data: Data, vertical_config: VerticalConfig
) -> None:
    config = SMALL.model_copy(update={"methods": ("label", "kd"), "num_seeds": 1, "weights": (), "learning_rates": ()})
    warmup = vertical_config.training.warmup_windows
    walked = walk(vertical_config, data, config, OWN)
    assert walked.windows == tuple(data.windows[warmup:])
    rate, weight = vertical_config.training.learning_rate, vertical_config.distillation.weight
    assert {contender.method: setting for contender, setting in walked.chosen.items()} == {
        "label": Setting(weight=0, learning_rate=rate),
        "kd": Setting(weight=weight, learning_rate=rate),
    }
    other = vertical_config.model_copy(
        update={"training": vertical_config.training.model_copy(update={"warmup_windows": 9})}
    )
    with pytest.raises(ConfigError, match=r"no window is left to report of 9, since it warms up for 9 \("):
        split_windows(other, data, config)


@pytest.mark.slow
def test_a_comparison_is_a_file_a_table_and_a_page(
    examples: ExampleTable, foundation: Ref, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    out = tmp_path / "comparison.json"
    told: list[tuple[int, int]] = []
    found = compare(
        SMALL,
        name="small",
        verticals=[vertical_config],
        teachers={"search-ads": ("fm",)},
        foundations={"fm": foundation},
        examples=examples,
        out=str(out),
        on_window=lambda *progress: told.append(progress),
    )
    assert Comparison.parse(json.loads(out.read_text()), source="comparison") == found
    num_windows = len(examples.windows)
    assert told == [(done, num_windows) for done in range(1, num_windows + 1)]
    assert (found.user, found.foundation_model) == ("user_id", "fm")
    assert found.foundation_models == {"fm": foundation}
    assert found.examples.state().files == examples.state.files
    click = found.verticals[0].tasks["click"].own()
    assert list(click.methods) == list(SMALL.methods)
    assert click.methods["label"].delta_ne is None
    kd = click.methods["kd"]
    assert kd.delta_ne is not None
    assert kd.normalized_entropy is not None
    assert click.methods["label"].normalized_entropy is not None
    assert kd.delta_ne.value == pytest.approx(
        kd.normalized_entropy.value - click.methods["label"].normalized_entropy.value
    )
    assert kd.delta_ne.low < kd.delta_ne.value < kd.delta_ne.high
    _is_of_the_foundation_model(found, manifest_of(foundation))

    page = render_page(found)
    assert "self-distillation" in page
    assert "<code>user_id</code>" in page
    assert list(found.verticals[0].tasks["click"].references) == ["base_rate", "logistic"]
    assert "<th>logistic regression</th>" in page
    terminal = Console(file=StringIO(), width=160)
    print_comparison(found, console=terminal, page="comparison.html")
    printed = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "search-ads, click" in printed
    assert "logistic regression" in printed
    assert f"{kd.normalized_entropy.value:.4f}" in printed


def _is_of_the_foundation_model(found: Comparison, fm: ModelManifest) -> None:
    """Check the foundation model's calibration: what it recorded of the same examples."""
    vertical = found.verticals[0]
    recorded = predictions_of(fm, [window for window in fm.windows if window.index in vertical.windows])
    recorded = recorded.filter(pl.col("segment") == "search")
    weights = recorded["weight.click"]
    calibration = vertical.tasks["click"].own().pseudo_labels
    assert calibration is not None
    assert calibration.calibration is not None
    assert calibration.calibration.value == pytest.approx(
        (recorded["score.click"] * weights).sum() / (recorded["label.click"] * weights).sum(), rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "of_vertical", "user", "error", "message"),
    [
        ({"vertical_models": ("ads",)}, {}, "", ConfigError, "no vertical model ads; it has search-ads"),
        ({"tuning_windows": 2}, {}, "", ConfigError, "warms up for 2 windows"),
        ({"tuning_windows": 9}, {}, "", ConfigError, "no window is left to report of 9"),
        ({}, {"teachers": ("other",)}, "", ConfigError, "no example has a pseudo-label of foundation model 'other'"),
        ({}, {"teachers": NONE}, "", ConfigError, "no foundation model teaches all tasks of .* 'search-ads'"),
        ({}, {"domains": ("nowhere",)}, "", ConfigError, "no example is of domain 'nowhere'"),
        ({}, {"features": ("nothing",)}, "", SchemaError, "nothing"),
        ({}, {}, "member", SchemaError, "user column 'member' is not in the examples"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_trained_or_written(
    examples: ExampleTable, foundation: Ref, vertical_config: VerticalConfig, tmp_path: Path,
    changed: dict[str, object], of_vertical: dict[str, object], user: str, error: type[ExfmError], message: str,
) -> None:  # fmt: skip
    out = tmp_path / "comparison.json"
    out.write_text("before")
    model = vertical_config.model_copy(update=of_vertical)
    with pytest.raises(error, match=message):
        compare(
            TUNED.model_copy(update=changed),
            name="small",
            verticals=[model],
            teachers={"search-ads": tuple(name for name in model.teachers or ("fm",) if name)},
            foundations={"fm": foundation, "other": foundation},
            examples=with_user(examples, user),
            out=str(out),
            on_window=lambda done, of: pytest.fail("something was trained"),
        )
    assert out.read_text() == "before"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"methods": ["label", "magic"]}, "methods.1"),
        ({"methods": ["kd", "ah"]}, "label is missing"),
        ({"methods": ["label", "kd", "kd"]}, "kd is there more than once"),
        ({"learning_rates": [0.0]}, "learning_rates.0"),
        ({"teachers": [{"name": "same"}]}, "'same' changes nothing"),
        ({"teachers": [{"name": "both", "age": 1, "size": 4}]}, "'both' has a size and an age"),
        ({"teachers": [{"name": "x", "age": 1}, {"name": "x", "factor": 2}]}, "teachers: x is there more than once"),
        ({"teachers": [{"name": "Old", "age": 1}]}, "a lower-case letter or digit"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(written: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ComparisonConfig.parse(written, source="comparison")


def test_a_setting_at_the_end_of_those_tried_is_named() -> None:
    config = ComparisonConfig(weights=(1, 3, 10), learning_rates=(0.003,))
    chosen = {"label": 0.0, "kd": 10.0, "ah": 3.0, "self": 1.0}
    settings = {method: Setting(weight=weight, learning_rate=0.003) for method, weight in chosen.items()}
    vertical = VerticalComparison(
        name="ads", windows=(9,), first_window="0", last_window="0", settings={"fm": settings}, tasks={}
    )
    assert vertical.at_edge(config) == {("fm", "kd"): ("weight 10",), ("fm", "self"): ("weight 1",)}
    rates = config.model_copy(update={"learning_rates": (0.001, 0.003), "weights": (1.0,)})
    assert vertical.at_edge(rates) == {("fm", method): ("learning rate 0.003",) for method in chosen}


def test_a_run_without_examples_is_told_to_run_first(tmp_path: Path) -> None:
    run = read_run_config(REPOSITORY / "examples/movielens/run.yaml", root=str(tmp_path))
    with pytest.raises(StorageError, match="no examples there to compare on; run `exfm run` first"):
        compare_methods(run.comparison, run, root=run.root, on_window=lambda done, of: None)
    assert list(tmp_path.iterdir()) == []
