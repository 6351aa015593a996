"""Variants of a teacher: each says what its name promises, as of a time at which it could have said it."""

from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from stream import Stream

from exfm.artifact.manifest import Window
from exfm.artifact.storage import Ref
from exfm.distill.config import DistillationConfig, VerticalConfig
from exfm.errors import ConfigError
from exfm.evaluation.config import ComparisonConfig, TeacherVariant
from exfm.evaluation.field import Contender
from exfm.evaluation.foundation import SizedFoundations, train_sizes
from exfm.evaluation.harness import walk
from exfm.evaluation.sizes import sized
from exfm.evaluation.stage import compare
from exfm.evaluation.teachers import OldSnapshots, Teachers, changed, older_snapshot
from exfm.events.examples import Examples, ExampleTable, PseudoLabels, examples_of
from exfm.foundation.config import FoundationConfig
from exfm.metrics.quality import quality
from exfm.models.config import ModelConfig, NetworkConfig
from exfm.report.distillation.page import render_page
from exfm.report.distillation.table import print_comparison
from exfm.training.data import Data
from exfm.training.manifest import ModelManifest

WINDOW = Window(index=3, start=0, end=10)
PSEUDO = PseudoLabels(
    probabilities_BT=np.array([[0.1], [0.4], [0.7], [np.nan]], dtype=np.float32), ages_B=np.array([1.0, 2, 3, np.nan])
)


def test_a_factor_stops_at_one_and_leaves_gaps() -> None:
    found = changed(PSEUDO, TeacherVariant(name="x", factor=2), WINDOW)
    np.testing.assert_allclose(found.probabilities_BT[:, 0], [0.2, 0.8, 1, np.nan])
    assert found.probabilities_BT.dtype == np.float32
    np.testing.assert_array_equal(found.ages_B, PSEUDO.ages_B)


def test_shuffled_pseudo_labels_are_the_same_ones_in_another_order_with_their_ages() -> None:
    many = PseudoLabels(probabilities_BT=np.linspace(0, 1, 50, dtype=np.float32)[:, None], ages_B=np.arange(50.0))
    found = changed(many, TeacherVariant(name="x", shuffled=True), WINDOW)
    assert not np.array_equal(found.ages_B, many.ages_B)
    order = found.ages_B.astype(int)
    assert sorted(order) == list(range(50))
    np.testing.assert_array_equal(found.probabilities_BT, many.probabilities_BT[order])
    again = changed(many, TeacherVariant(name="y", shuffled=True), WINDOW)
    np.testing.assert_array_equal(found.ages_B, again.ages_B)
    for other in (TeacherVariant(name="x", shuffled=True, seed=1), TeacherVariant(name="x", shuffled=True)):
        window = WINDOW if other.seed else WINDOW.model_copy(update={"index": 4})
        assert not np.array_equal(changed(many, other, window).ages_B, found.ages_B)


def test_noise_has_its_standard_deviation_in_logits() -> None:
    half = PseudoLabels(probabilities_BT=np.full((20_000, 1), 0.5, dtype=np.float32), ages_B=np.zeros(20_000))
    found = changed(half, TeacherVariant(name="x", noise=1.5), WINDOW).probabilities_BT
    logits = np.log(found / (1 - found))
    assert logits.std() == pytest.approx(1.5, rel=0.02)
    assert logits.mean() == pytest.approx(0, abs=0.05)
    assert found.dtype == np.float32


def test_a_size_multiplies_dims_and_units() -> None:
    model = ModelConfig(
        network=NetworkConfig(bottom_units=(8,), num_cross_layers=1, cross_rank=6, top_units=(20, 3)), dim_factor=4
    )
    found = sized(model, 0.25, source="x")
    assert found.dim_factor == 1
    assert (found.network.bottom_units, found.network.cross_rank) == ((2,), 2)
    assert found.network.top_units == (5, 1)  # at least one
    assert sized(model, 1, source="x") == model
    with pytest.raises(ConfigError, match=r"'big': size 32 of a model with dim_factor 4: dim_factor.*64.*128"):
        sized(model, 32, source="'big'")
    with pytest.raises(ConfigError, match="dim_factor"):
        sized(model, 0.3, source="x")
    deep = ModelConfig(network=NetworkConfig(interaction="deepfm"))
    assert sized(deep, 2, source="x").network.interaction == "deepfm"


@pytest.fixture
def data(examples: ExampleTable, vertical_config: VerticalConfig) -> Data:
    schema = examples.schema.select(tasks=vertical_config.tasks)
    return Data(examples, schema, domains=vertical_config.domains, teachers=("fm",))


@pytest.fixture
def late(vertical_config: VerticalConfig) -> VerticalConfig:
    """Return a vertical model whose figures begin when every teacher has learned something."""
    return vertical_config.model_copy(
        update={"training": vertical_config.training.model_copy(update={"warmup_windows": 4})}
    )


def read(data: Data, window: Window) -> tuple[Examples, pl.DataFrame]:
    frame = data.examples.read(window, domains=data.domains)
    return examples_of(frame, data.schema, teachers=("fm",)), frame


def old_snapshots(variants: Sequence[TeacherVariant], foundation: Ref, data: Data) -> OldSnapshots:
    manifest = ModelManifest.read(Path(foundation.uri))
    return OldSnapshots(variants, manifest, foundation.uri, teacher="fm", tasks=data.schema.tasks())


@pytest.mark.slow
def test_of_two_foundation_models_the_teacher_is_the_mean(data: Data) -> None:
    teachers = Teachers(("a", "b"))
    assert (teachers.own, teachers.taught_by) == ("a+b", {"a+b": ("a", "b")})
    examples, _ = read(data, data.windows[7])
    fm = examples.pseudo["fm"]
    other = changed(PseudoLabels(fm.probabilities_BT, fm.ages_B + 5), TeacherVariant(name="b", factor=0.5), WINDOW)
    told = teachers.pseudo_labels(replace(examples, pseudo={"a": fm, "b": other}), "a+b")
    np.testing.assert_allclose(told.probabilities_BT, 0.75 * fm.probabilities_BT, rtol=1e-6)
    np.testing.assert_array_equal(told.ages_B, fm.ages_B + 5)


@pytest.mark.slow
def test_an_old_snapshot_scores_a_window_as_of_windows_before(data: Data, foundation: Ref) -> None:
    manifest = ModelManifest.read(Path(foundation.uri))
    old, same = TeacherVariant(name="old", age=2), TeacherVariant.model_construct(name="same", age=0)
    window = data.windows[7]
    now, before = (manifest.snapshot_for(data.windows[place].start) for place in (7, 5))
    assert older_snapshot(manifest, now, age=2) == before is not None
    examples, frame = read(data, window)
    found = old_snapshots([old, same], foundation, data)(window, frame)
    own = examples.pseudo["fm"]
    np.testing.assert_array_equal(found["old"].ages_B, own.ages_B + 2 * (window.end - window.start))
    assert not np.allclose(found["old"].probabilities_BT, own.probabilities_BT, rtol=1e-3)
    np.testing.assert_allclose(found["same"].probabilities_BT, own.probabilities_BT, rtol=1e-6)  # a slice of the rows
    np.testing.assert_array_equal(found["same"].ages_B, own.ages_B)


@pytest.mark.slow
def test_a_foundation_model_says_nothing_of_old_before_it_had_learned(data: Data, foundation: Ref) -> None:
    old, window = TeacherVariant(name="old", age=2), data.windows[2]
    examples, frame = read(data, window)
    assert not np.isnan(examples.pseudo["fm"].ages_B).any()
    found = old_snapshots([old], foundation, data)(window, frame)["old"]
    assert np.isnan(found.probabilities_BT).all()
    assert np.isnan(found.ages_B).all()


@pytest.mark.slow
def test_snapshots_that_were_removed_are_named(data: Data, foundation: Ref) -> None:
    manifest = ModelManifest.read(Path(foundation.uri))
    thinned = manifest.model_copy(update={"snapshots": manifest.snapshots[3:]})
    first, last = (manifest.snapshots[place].window for place in (0, 2))
    with pytest.raises(
        ConfigError, match=rf"'old' has an age, but .* 'fm' has no snapshots from window {first} to {last}"
    ):
        OldSnapshots([TeacherVariant(name="old", age=1)], thinned, foundation.uri, teacher="fm", tasks=("click",))


@pytest.mark.slow
def test_a_foundation_model_of_size_one_says_what_the_runs_own_says(data: Data, foundation: Ref) -> None:
    manifest = ModelManifest.read(Path(foundation.uri))
    models = {size: sized(manifest.model, size, source="x") for size in (1.0, 2.0)}
    trained = train_sizes(manifest, models, examples=data.examples)
    variants = [TeacherVariant(name="same", size=1), TeacherVariant(name="twice", size=2)]
    of_sizes = SizedFoundations(variants, trained, data=data)
    known = 0
    for window in data.windows:
        examples, frame = read(data, window)
        found = of_sizes(window, frame)
        np.testing.assert_allclose(found["same"].probabilities_BT, examples.pseudo["fm"].probabilities_BT, rtol=1e-5)
        np.testing.assert_array_equal(found["same"].ages_B, examples.pseudo["fm"].ages_B)
        np.testing.assert_array_equal(found["twice"].ages_B, examples.pseudo["fm"].ages_B)
        known += int((~np.isnan(found["twice"].probabilities_BT)).sum())
    assert known > 500
    one, two = trained[1.0].model, trained[2.0].model
    assert one.cost.num_parameters == manifest.num_parameters < two.cost.num_parameters
    assert one.cost.training_cpu_s > one.cost.scoring_cpu_s > 0


@pytest.mark.slow
def test_variants_teach_and_what_needs_no_teacher_walks_once(data: Data, late: VerticalConfig) -> None:
    variants = (TeacherVariant(name="double", factor=2), TeacherVariant(name="blank", shuffled=True))
    config = ComparisonConfig(
        num_seeds=1, weights=(1.0,), learning_rates=(0.003,), methods=("label", "kd", "auto", "self"),
        teachers=variants,
    )  # fmt: skip
    walked = walk(late, data, config, Teachers(("fm",), variants))
    assert [(contender.teacher, contender.method) for contender in walked.scores] == [
        ("fm", "label"), ("fm", "kd"), ("fm", "auto"), ("fm", "self"),
        ("double", "kd"), ("double", "auto"), ("blank", "kd"), ("blank", "auto"),
    ]  # fmt: skip
    alone = walk(late, data, config.model_copy(update={"teachers": ()}), Teachers(("fm",)))
    for contender, scores in alone.scores.items():
        np.testing.assert_array_equal(walked.scores[contender], scores)
    np.testing.assert_allclose(walked.pseudo["double"], np.minimum(2 * walked.pseudo["fm"], 1))
    label = walked.scores[Contender("fm", "label")]
    np.testing.assert_array_equal(walked.scores[Contender("blank", "auto")], label)
    own, double = (
        quality(walked.scores[Contender(teacher, "kd")][0, :, 0], walked.labels_NT[:, 0], walked.weights_NT[:, 0])
        for teacher in ("fm", "double")
    )
    assert own.calibration is not None
    assert double.calibration is not None
    assert double.calibration > own.calibration + 0.1  # a share of it: what is worse than the base rate is drawn there


@pytest.mark.slow
def test_a_comparison_has_its_figures_by_teacher(
    foundation: Ref, examples: ExampleTable, late: VerticalConfig, tmp_path: Path
) -> None:
    config = ComparisonConfig(
        num_seeds=1, weights=(1.0,), learning_rates=(0.003,), methods=("label", "ah"),
        num_bootstrap_samples=100,
        teachers=(TeacherVariant(name="stale", age=1), TeacherVariant(name="large", size=2)),
    )  # fmt: skip
    told: list[tuple[int, int]] = []
    found = compare(
        config, name="small", verticals=[late], teachers={"search-ads": ("fm",)}, foundations={"fm": foundation},
        examples=examples, out=str(tmp_path / "comparison.json"), on_window=lambda *progress: told.append(progress),
    )  # fmt: skip
    assert told == [(done, 18) for done in range(1, 19)]  # 9 windows of the larger model, then of the vertical one
    click = found.verticals[0].tasks["click"]
    assert {teacher: list(of.methods) for teacher, of in click.teachers.items()} == {
        "fm": ["label", "ah"], "stale": ["ah"], "large": ["ah"],
    }  # fmt: skip
    entropies = [of.pseudo_labels.normalized_entropy for of in click.teachers.values() if of.pseudo_labels]
    assert len({entropy.value for entropy in entropies if entropy}) == 3
    assert found.verticals[0].settings["stale"]["ah"].weight == 1
    (large,) = found.sized
    assert (large.size, large.cost.num_parameters > found.num_foundation_parameters) == (2, True)
    page = render_page(found)
    assert "by the foundation model's size" in page.replace("&#39;", "'")
    assert "of search-ads by the age of snapshots" in page
    assert "1 window older" in page
    assert "size times 2" in page
    terminal = Console(file=StringIO(), width=160)
    print_comparison(found, console=terminal, page="comparison.html")
    assert "pseudo-labels" in terminal.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"name": "huge", "size": 64}, "'huge': size 64 of a model with dim_factor 2"),
        ({"name": "fm", "factor": 2}, "'fm' is the name of the run's foundation model"),
    ],
)
def test_a_variant_that_cannot_be_is_told_before_anything_is_trained(
    examples: ExampleTable, foundation: Ref, vertical_config: VerticalConfig, tmp_path: Path,
    written: dict[str, object], message: str,
) -> None:  # fmt: skip
    config = ComparisonConfig.parse({"tuning_windows": 3, "teachers": [written]}, source="comparison")
    with pytest.raises(ConfigError, match=message):
        compare(
            config,
            name="small",
            verticals=[vertical_config],
            teachers={"search-ads": ("fm",)},
            foundations={"fm": foundation},
            examples=examples,
            out=str(tmp_path / "comparison.json"),
            on_window=lambda done, of: pytest.fail("something was trained"),
        )


@pytest.mark.slow
def test_a_vertical_model_may_have_teachers_of_its_own_and_of_two_none_is_varied(
    stream: Stream, foundation_config: FoundationConfig, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    two, auto = (
        replace(stream, root=tmp_path),
        vertical_config.model_copy(update={"teachers": ("other", "fm"), "distillation": DistillationConfig()}),
    )
    fms, [vertical] = two.run([foundation_config, foundation_config.model_copy(update={"name": "other"})], [auto])
    manifest = ModelManifest.read(Path(vertical.uri))
    assert manifest.teachers == ("other", "fm")
    assert {chosen.teacher for chosen in manifest.teacher_weights} == {"other", "fm"}

    config = ComparisonConfig(tuning_windows=3, teachers=(TeacherVariant(name="x", factor=2),))
    with pytest.raises(ConfigError, match=r"only foundation model 'fm' is varied and timed, but .* has fm, other"):
        compare(
            config, name="small", verticals=[vertical_config], teachers={"search-ads": ("fm", "other")},
            foundations=dict(zip(("fm", "other"), fms, strict=True)), examples=two.examples(),
            out=str(tmp_path / "comparison.json"), on_window=lambda done, of: pytest.fail("something was trained"),
        )  # fmt: skip
