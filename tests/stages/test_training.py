"""Test, then train: in order of time, with labels used only once they are known."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from polars.testing import assert_frame_equal
from scipy.special import logit
from stream import Stream

from exfm.artifact.manifest import Window
from exfm.artifact.storage import Ref, ref_to
from exfm.das.labels import make_labels
from exfm.das.pseudo_labels import make_pseudo_labels
from exfm.errors import ConfigError, DataError, StorageError
from exfm.events.examples import Examples, Floats, examples_of, read_frame
from exfm.events.labels import LabelsManifest
from exfm.events.log import write_event_log
from exfm.events.partitions import read_partition, write_partition
from exfm.events.schemas import SYNTHETIC
from exfm.events.sources import load
from exfm.events.synthetic import SyntheticSource
from exfm.features.batch import NetBatches
from exfm.foundation.config import FoundationConfig
from exfm.foundation.stage import train_foundation
from exfm.metrics import quality
from exfm.models.config import Interaction, ModelConfig, NetworkConfig
from exfm.models.ranking import RankingModel
from exfm.schema import Schema
from exfm.training.checkpoint import load_weights, save_weights
from exfm.training.config import TrainingConfig
from exfm.training.evaluation import over_line, read_predictions, record_predictions, recorded_predictions
from exfm.training.learner import LabelLearner, weighted_loss
from exfm.training.loop import walk_windows
from exfm.training.manifest import BASE_RATE, WINDOW, Excess, ModelManifest
from exfm.training.run import Data, OnWindow, run_training
from exfm.training.trainer import Trainer

pytestmark = pytest.mark.slow

WINDOW_S = 43_200


def windows(count: int, *, length: int = 10) -> list[Window]:
    return [Window(index=i, start=i * length, end=(i + 1) * length) for i in range(count)]


@pytest.fixture
def learner(stream: Stream, foundation_config: FoundationConfig) -> LabelLearner:
    schema = stream.schema.select(tasks=foundation_config.tasks)
    return LabelLearner(RankingModel(schema, foundation_config.model))


@pytest.fixture
def one_window(stream: Stream, learner: LabelLearner) -> Examples:
    window = Window(index=1, start=0, end=1)
    datasets = (stream.folder(stream.events) / "impressions", stream.folder(stream.labels))
    return examples_of(read_frame(datasets, window, stream.schema), stream.schema.select(tasks=("click",)))


def walk(learner: LabelLearner, examples: Examples, *, delay: int, known_until: int = 1000) -> list[tuple[str, int]]:
    """Return what was done to five windows of ten steps each, in order."""
    done: list[tuple[str, int]] = []
    walk_windows(
        Trainer(learner, TrainingConfig(batch_size=1000, learning_rate=1e-9)),
        windows(5),
        read=lambda window: examples,
        label_delay=delay,
        known_until=known_until,
        on_tested=lambda window, examples, scores: done.append(("test", window.index)),
        on_trained=lambda window, examples: done.append(("train", window.index)),
    )
    return done


def test_a_window_is_tested_before_it_is_learned(learner: LabelLearner, one_window: Examples) -> None:
    steps = [(step, index) for index in range(5) for step in ("test", "train")]
    assert walk(learner, one_window, delay=0) == steps


def test_a_window_is_learned_only_when_its_labels_are_known(learner: LabelLearner, one_window: Examples) -> None:
    done = walk(learner, one_window, delay=11)
    for index in range(3):  # known at 10 * (index + 1) + 11, which is before the start of window index + 3 only
        assert done.index(("train", index)) > done.index(("test", index + 2))
        if index < 2:
            assert done.index(("train", index)) < done.index(("test", index + 3))


def test_windows_with_labels_still_unknown_at_the_end_are_left(learner: LabelLearner, one_window: Examples) -> None:
    done = walk(learner, one_window, delay=11, known_until=50)
    assert [index for step, index in done if step == "train"] == [0, 1, 2]
    assert [index for step, index in done if step == "test"] == [0, 1, 2, 3, 4]


def one_pass(learner: LabelLearner, examples: Examples) -> tuple[float, float]:
    """Return the loss before and after a window is learned."""
    with torch.no_grad():
        before = float(learner.loss(examples, learner.model.inputs(examples.batches)))
    trainer = Trainer(learner, TrainingConfig(batch_size=32, learning_rate=0.001))
    trainer.learn(Window(index=0, start=0, end=1), examples, trainer.test(examples))
    with torch.no_grad():
        return before, float(learner.loss(examples, learner.model.inputs(examples.batches)))


def test_one_pass_over_a_fixed_window_lowers_its_loss_as_it_did_before(
    learner: LabelLearner, one_window: Examples
) -> None:
    assert one_pass(learner, one_window) == pytest.approx((0.6903, 0.4469), abs=2e-3)


@pytest.mark.parametrize(("interaction", "losses"), [("deepfm", (0.7477, 0.4561)), ("dlrm", (0.6808, 0.4816))])
def test_one_pass_lowers_the_loss_of_every_interaction(
    interaction: Interaction, losses: tuple[float, float], one_window: Examples, stream: Stream
) -> None:
    network = NetworkConfig(interaction=interaction, bottom_units=(4,), top_units=(8,))
    learner = LabelLearner(RankingModel(stream.schema.select(tasks=("click",)), ModelConfig(network=network)))
    assert one_pass(learner, one_window) == pytest.approx(losses, abs=2e-3)


def test_an_example_of_weight_two_is_as_two_examples() -> None:
    logits_BT = torch.tensor([[0.3], [-0.5]])
    weighted = weighted_loss(logits_BT, np.array([[1.0], [0.0]], dtype=np.float32), np.array([[1.0], [2.0]]))
    repeated = weighted_loss(
        logits_BT[[0, 1, 1]], np.array([[1.0], [0.0], [0.0]], dtype=np.float32), np.ones((3, 1), dtype=np.float32)
    )
    assert float(weighted) * 2 == pytest.approx(float(repeated) * 3)


def test_a_model_answers_about_the_label_rate_when_it_starts(learner: LabelLearner, one_window: Examples) -> None:
    learner.start(one_window)
    rate = np.nanmean(one_window.labels_BT)
    assert rate < 0.2
    assert learner.model.probabilities(one_window.batches).mean() == pytest.approx(rate, rel=0.25)


def test_every_head_starts_at_the_base_rate(learner: LabelLearner, one_window: Examples) -> None:
    learner.start(one_window)
    positives, known = np.nansum(one_window.labels_BT), (~np.isnan(one_window.labels_BT)).sum()
    assert learner.model.network.serving_head.bias.item() == pytest.approx(logit((positives + 0.5) / (known + 1)))


def test_a_learner_is_started_once_and_told_of_each_window_before_it_learns_it(
    stream: Stream, foundation_config: FoundationConfig, one_window: Examples
) -> None:
    told: list[tuple[str, int]] = []

    class Telling(LabelLearner):
        def start(self, examples: Examples) -> None:
            told.append(("start", len(examples)))

        def begin(self, window: Window, examples: Examples, scores_BT: Floats) -> None:
            np.testing.assert_array_equal(scores_BT, self.shrinkage.served(self.model.logits(examples.batches)))
            told.append(("begin", window.index))

    learner = Telling(RankingModel(stream.schema.select(tasks=("click",)), foundation_config.model))
    trainer = Trainer(learner, TrainingConfig(batch_size=100))
    for window in windows(2):
        trainer.learn(window, one_window, trainer.test(one_window))
    assert told == [("start", len(one_window)), ("begin", 0), ("begin", 1)]


def test_the_steps_alone_move_the_weights_as_learning_does_and_note_nothing_of_the_window(
    stream: Stream, foundation_config: FoundationConfig, one_window: Examples
) -> None:
    scored: list[int] = []

    class Model(RankingModel):
        def logits(self, batches: NetBatches) -> Floats:
            scored.append(len(batches.num_candidates))
            return super().logits(batches)

    schema = stream.schema.select(tasks=("click",))
    whole, steps = (LabelLearner(Model(schema, foundation_config.model)) for _ in range(2))
    Trainer(whole, TrainingConfig()).learn(
        Window(index=0, start=0, end=1), one_window, np.zeros_like(one_window.labels_BT)
    )
    assert scored == [len(one_window)]
    steps.start(one_window)
    Trainer(steps, TrainingConfig()).fit(one_window)
    assert scored == [len(one_window)]
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(steps.model.state_dict()[name], value, rtol=0, atol=0)
    assert whole.shrinkage.state()["totals"] > 0
    assert steps.shrinkage.state()["totals"] == 0


def test_an_unknown_target_is_no_loss_and_no_gradient() -> None:
    logits_BT = torch.tensor([[0.3], [5.0]], requires_grad=True)
    targets_BT = np.array([[1.0], [np.nan]], dtype=np.float32)
    loss = weighted_loss(logits_BT, targets_BT, np.ones_like(targets_BT))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(np.log1p(np.exp(-0.3)) / 2)
    assert logits_BT.grad is not None
    assert logits_BT.grad[1].item() == 0


def test_a_snapshot_holds_what_its_windows_taught_and_scores_the_same_when_loaded(
    stream: Stream, foundation: Ref, one_window: Examples
) -> None:
    manifest = ModelManifest.read(stream.folder(foundation))
    scores = []
    for snapshot in (manifest.snapshots[0], manifest.snapshots[0], manifest.snapshots[-1]):
        model = RankingModel(manifest.feature_schema, manifest.model)
        load_weights(model, stream.folder(foundation) / snapshot.folder)
        scores.append(model.probabilities(one_window.batches))
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.abs(scores[0] - scores[2]).max() > 1e-3


def test_weights_of_other_sizes_are_refused_by_name(
    foundation_config: FoundationConfig, tmp_path: Path, learner: LabelLearner
) -> None:
    save_weights(learner, tmp_path)
    wider = foundation_config.model.model_copy(update={"dim_factor": 4})
    with pytest.raises(StorageError, match=r"tensor 'dense.* has shape .*, expected .* train again"):
        load_weights(RankingModel(learner.model.schema.select(), wider), tmp_path)


def test_a_walk_says_after_each_window_how_many_are_done_of_how_many(
    stream: Stream, foundation_config: FoundationConfig, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    manifest = train_foundation(
        foundation_config,
        events=stream.events,
        labels=stream.labels,
        out=str(tmp_path / "fm"),
        on_window=lambda *walked: seen.append(walked),
    )
    num_windows = len(manifest.windows)
    assert seen == [(num_done, num_windows) for num_done in range(1, num_windows + 1)]
    assert [quality.window for quality in manifest.qualities] == [window.index for window in manifest.windows]


def test_overall_quality_is_that_of_all_predictions_after_the_warm_up(stream: Stream, foundation: Ref) -> None:
    folder = stream.folder(foundation)
    manifest = ModelManifest.read(folder)
    counted = read_predictions(folder / "predictions", manifest.windows[2:])
    columns = (counted[f"{kind}.click"].to_numpy() for kind in ("score", "label", "weight"))
    assert manifest.overall["click"] == quality(*columns)
    assert manifest.overall["click"].num_examples > 2000


def test_a_foundation_model_learns_something(stream: Stream, foundation: Ref) -> None:
    overall = ModelManifest.read(stream.folder(foundation)).overall["click"]
    assert overall.auc is not None
    assert overall.auc > 0.55


def test_a_warm_start_goes_on_as_if_training_had_never_stopped(
    foundation_config: FoundationConfig, tmp_path: Path
) -> None:
    whole = first_windows(tmp_path / "whole", num_windows=8)
    half = first_windows(tmp_path / "half", num_windows=5)
    at_once = train_on(whole, foundation_config, tmp_path / "at-once")
    first = train_on(half, foundation_config, tmp_path / "first")
    second = train_on(whole, foundation_config, tmp_path / "second", warm_start=str(tmp_path / "first"))
    assert first.snapshots[-1].version != second.snapshots[-1].version == at_once.snapshots[-1].version
    assert second.snapshots == at_once.snapshots
    assert figures(second) == pytest.approx(figures(at_once), rel=1e-5)
    assert [quality.tables for quality in second.qualities] == [quality.tables for quality in at_once.qualities]
    predictions = [read_predictions(tmp_path / run / "predictions", second.windows) for run in ("second", "at-once")]
    assert_frame_equal(*predictions, rel_tol=1e-5, abs_tol=1e-6)
    pseudo = [
        make_pseudo_labels(events=whole[0], foundation=ref_to(str(tmp_path / run)), out=str(tmp_path / f"{run}-pseudo"))
        for run in ("second", "at-once")
    ]
    assert pseudo[0].snapshots == pseudo[1].snapshots
    assert pseudo[0].num_scored == pseudo[1].num_scored > 0
    last = at_once.snapshots[-1].folder
    for file in ("weights.safetensors", "training.safetensors", "references.safetensors"):
        one = safetensors.torch.load_file(tmp_path / "at-once" / last / file)
        two = safetensors.torch.load_file(tmp_path / "second" / last / file)
        assert one.keys() == two.keys()
        for name, value in one.items():
            torch.testing.assert_close(
                two[name], value, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_a_warm_start_from_other_sizes_is_refused(
    stream: Stream, foundation: Ref, foundation_config: FoundationConfig, tmp_path: Path
) -> None:
    wider = foundation_config.model_copy(update={"model": foundation_config.model.model_copy(update={"dim_factor": 3})})
    with pytest.raises(ConfigError, match="warm start: model 'fm' has other sizes"):
        train_on((stream.events, stream.labels), wider, tmp_path / "fm", warm_start=foundation.uri)
    assert not (tmp_path / "fm").exists()


def test_a_warm_start_without_a_new_window_leaves_what_was_there(
    stream: Stream, foundation: Ref, foundation_config: FoundationConfig, tmp_path: Path
) -> None:
    before = ModelManifest.read(stream.folder(foundation))
    log = (stream.events, stream.labels)
    after = train_on(log, foundation_config, tmp_path / "fm", warm_start=foundation.uri)
    assert (after.snapshots, after.qualities, after.overall) == (before.snapshots, before.qualities, before.overall)
    assert (after.references, after.over_base_rate) == (before.references, before.over_base_rate)
    assert after.overall["click"].normalized_entropy is not None


def test_a_warm_start_keeps_the_scores_of_a_window_that_went_on_since(
    foundation_config: FoundationConfig, tmp_path: Path
) -> None:
    half = first_windows(tmp_path / "half", num_windows=4.5)
    whole = first_windows(tmp_path / "whole", num_windows=8)
    first = train_on(half, foundation_config, tmp_path / "first")
    second = train_on(whole, foundation_config, tmp_path / "second", warm_start=str(tmp_path / "first"))
    window = first.windows[4]
    before, after = (read_predictions(tmp_path / run / "predictions", [window]) for run in ("first", "second"))
    assert 0 < before.height < after.height
    assert first.snapshots[-1].window < window.index
    assert second.snapshots[: len(first.snapshots)] == first.snapshots
    assert after["score.click"].head(before.height).equals(before["score.click"])
    assert after["score.click"].is_finite().all()


@pytest.mark.parametrize("change", ["start", "length"])
def test_a_warm_start_on_a_log_with_other_windows_is_refused(
    change: str, foundation_config: FoundationConfig, tmp_path: Path
) -> None:
    train_on(first_windows(tmp_path / "a", num_windows=5), foundation_config, tmp_path / "first")
    if change == "start":
        other = first_windows(tmp_path / "b", num_windows=8, skipped_s=WINDOW_S)
    else:
        other = first_windows(tmp_path / "b", num_windows=8, window_length=2 * WINDOW_S)
    with pytest.raises(
        ConfigError, match=r"warm start: model 'fm' learned 4 from \d+ to \d+, but the log's first wind"
    ):
        train_on(other, foundation_config, tmp_path / "second", warm_start=str(tmp_path / "first"))
    assert not (tmp_path / "second").exists()


def test_a_warm_start_from_an_earlier_release_is_refused(
    stream: Stream, foundation: Ref, foundation_config: FoundationConfig, tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    shutil.copytree(stream.folder(foundation), earlier)
    manifest = ModelManifest.read(earlier)
    (earlier / manifest.snapshots[-1].folder / "references.safetensors").unlink()
    manifest.write(earlier)
    with pytest.raises(
        StorageError, match=r"references.safetensors: missing; an earlier release .* from the first win"
    ):
        train_on((stream.events, stream.labels), foundation_config, tmp_path / "fm", warm_start=str(earlier))


def test_labels_of_a_window_change_no_prediction_until_they_are_known(stream: Stream, tmp_path: Path) -> None:
    flipped_index, sources = 4, ("score", "base_rate", "logistic")
    flipped = replace(stream, root=tmp_path, labels=flip(stream, flipped_index, tmp_path / "labels"))
    rows = []
    for name, of in (("as-they-are", stream), ("flipped", flipped)):
        schema = stream.schema.select(tasks=("click",))
        outcome = run_on(of, LabelLearner(RankingModel(schema, FoundationConfig().model)), tmp_path / name)
        tested = [window for window in windows_of(of) if window.index in {q.window for q in outcome.qualities}]
        rows.append(read_predictions(tmp_path / name / "predictions", tested))
    for source in sources:
        before, after = (frame.select(WINDOW, f"{source}.click") for frame in rows)
        differs = before.with_columns(differs=before[f"{source}.click"] != after[f"{source}.click"])
        first = differs.filter("differs")[WINDOW].min()
        assert first == flipped_index + 2, source  # an hour of attribution: the next window starts too early


def test_what_a_model_lacks_of_the_base_rate_is_the_difference_of_their_entropies(
    stream: Stream, foundation: Ref
) -> None:
    manifest = ModelManifest.read(stream.folder(foundation))
    excess = manifest.over_base_rate["click"]
    own, base = manifest.overall["click"], manifest.references["base_rate"]["click"]
    assert own.normalized_entropy is not None
    assert base.normalized_entropy is not None
    assert excess.entropy == pytest.approx(own.normalized_entropy - base.normalized_entropy, abs=1e-7)
    assert excess.low is not None
    assert excess.high is not None
    assert excess.low < excess.entropy < excess.high
    assert manifest.references.keys() == {"base_rate", "logistic"}
    assert manifest.references["logistic"]["click"].num_examples == own.num_examples


def predicted(*losses: tuple[float, float]) -> pl.DataFrame:
    """Return windows of two examples, scored as given, a positive and a negative, beside a base rate of 1/2."""
    return pl.DataFrame(
        {
            WINDOW: np.repeat(np.arange(len(losses)), 2),
            "score.click": np.array(losses, dtype=np.float32).ravel(),
            "base_rate.click": np.full(2 * len(losses), 0.5, dtype=np.float32),
            "label.click": np.array([1, 0] * len(losses), dtype=np.float32),
            "weight.click": np.ones(2 * len(losses), dtype=np.float32),
        }
    )


def test_the_interval_spans_what_other_windows_would_have_given() -> None:
    good, bad = (0.8, 0.2), (0.3, 0.7)
    gain, loss = -np.log2(0.8) - 1, -np.log2(0.3) - 1
    found = over_line(predicted(good, bad), "click", line=BASE_RATE)
    assert found is not None
    assert found.entropy == pytest.approx((gain + loss) / 2, rel=1e-5)
    assert (found.low, found.high) == pytest.approx((gain, loss), rel=1e-5)
    many = over_line(predicted(*[good, bad] * 50), "click", line=BASE_RATE)
    assert many is not None
    assert many.entropy == pytest.approx(found.entropy)
    error = (loss - gain) / 2 / np.sqrt(100)
    assert (many.low, many.high) == pytest.approx((many.entropy - 1.96 * error, many.entropy + 1.96 * error), abs=0.015)


def test_one_window_gives_no_interval_and_one_class_no_excess() -> None:
    found = over_line(predicted((0.8, 0.2)), "click", line=BASE_RATE)
    assert found is not None
    assert found.entropy == pytest.approx(-np.log2(0.8) - 1, rel=1e-5)
    assert (found.low, found.high) == (None, None)
    assert over_line(predicted((0.8, 0.2)).filter(pl.col("label.click") == 1), "click", line=BASE_RATE) is None


def test_a_headline_begins_with_what_is_worse_than_the_base_rate(stream: Stream, foundation: Ref) -> None:
    manifest = ModelManifest.read(stream.folder(foundation))
    worse, better = (Excess(entropy=value, low=value - 0.1, high=value + 0.1) for value in (0.0123, -0.0123))
    headline = manifest.model_copy(update={"over_base_rate": {"click": worse}}).headline()
    warning = "fm is worse than the base rate on click: NE difference +0.0123, 95 % interval [-0.0877, +0.1123]"
    assert headline.startswith(f"{warning}; fm: ")
    assert manifest.model_copy(update={"over_base_rate": {"click": better}}).headline().startswith("fm: ")


def test_recorded_predictions_are_found_again_by_impression(
    stream: Stream, one_window: Examples, tmp_path: Path
) -> None:
    schema, window = stream.schema.select(tasks=("click",)), Window(index=1, start=0, end=1)
    few = next(one_window.minibatches(10))
    predictions = {name: np.linspace(low, 0.9, 10, dtype=np.float32)[:, None] for name, low in (("a", 0.1), ("b", 0.2))}
    record_predictions(
        tmp_path, window, examples=few, predictions={"score": predictions["a"]} | predictions, schema=schema
    )
    found = recorded_predictions(tmp_path, window, examples=one_window, schema=schema, sources=["b", "a"])
    for name, values_BT in found.items():
        np.testing.assert_array_equal(values_BT[:10], predictions[name])
        assert np.isnan(values_BT[10:]).all()
        assert values_BT.dtype == np.float32


def test_recorded_predictions_of_impressions_that_are_gone_are_refused(
    stream: Stream, one_window: Examples, tmp_path: Path
) -> None:
    schema, window = stream.schema.select(tasks=("click",)), Window(index=1, start=0, end=1)
    predictions = {"score": np.full((len(one_window), 1), 0.5, dtype=np.float32)}
    record_predictions(tmp_path, window, examples=one_window, predictions=predictions, schema=schema)
    few = next(one_window.minibatches(10))
    message = rf"{len(one_window) - 10} of {len(one_window)} impressions that were scored before in window 1 are not"
    with pytest.raises(DataError, match=message):
        recorded_predictions(tmp_path, window, examples=few, schema=schema, sources=["score"])


def test_training_that_diverges_is_told_with_what_helps(stream: Stream, learner: LabelLearner, tmp_path: Path) -> None:
    spoil(learner)
    with pytest.raises(DataError, match=r"fm: scores of window 0 are no numbers: training diverged; normalise dense"):
        run_on(stream, learner, tmp_path)


def test_training_that_diverges_in_its_last_windows_is_told(
    stream: Stream, learner: LabelLearner, tmp_path: Path
) -> None:
    def on_window(num_done: int, num_windows: int) -> None:
        if num_done == num_windows:
            spoil(learner)

    with pytest.raises(DataError, match=r"fm: weights are no numbers after the last window: training diverged"):
        run_on(stream, learner, tmp_path, on_window=on_window)


def test_labels_of_other_events_are_refused(
    stream: Stream, foundation_config: FoundationConfig, tmp_path: Path
) -> None:
    events, _ = first_windows(tmp_path, num_windows=8)
    with pytest.raises(StorageError, match=r"labels output was made from .*; run the stage that writes the labels out"):
        train_on((events, stream.labels), foundation_config, tmp_path / "fm")


def test_a_log_too_short_to_know_any_label_is_refused(tmp_path: Path) -> None:
    log = first_windows(tmp_path, num_windows=2)
    with pytest.raises(DataError, match="no window's labels are all known at the log's end"):
        train_on(log, FoundationConfig(tasks=("conversion",)), tmp_path / "fm")


def first_windows(
    folder: Path, *, num_windows: float, skipped_s: int = 0, window_length: int = WINDOW_S
) -> tuple[Ref, Ref]:
    """Return events and labels of the first windows of one and the same stream of eight, from `skipped_s` on."""
    source = SyntheticSource(kind="synthetic", num_impressions=1000, num_users=50, num_ads=40, duration_s=8 * WINDOW_S)
    schema = Schema.read(SYNTHETIC)
    log = load(source, schema=schema)
    first = int(log.impressions["event_time_s"].min())
    end = first + int(num_windows * WINDOW_S)
    known = {
        "impressions": log.impressions.filter(pl.col("event_time_s").is_between(first + skipped_s, end, closed="left")),
        "feedback": log.feedback.filter(pl.col("event_time_s") < end),
    }
    (folder / "events").mkdir(parents=True)
    write_event_log(replace(log, **known), schema=schema, window_length=window_length, folder=folder / "events")
    events = ref_to(str(folder / "events"))
    make_labels(events, out=str(folder / "labels"))
    return events, ref_to(str(folder / "labels"))


def train_on(log: tuple[Ref, Ref], config: FoundationConfig, out: Path, *, warm_start: str = "") -> ModelManifest:
    config = config.model_copy(update={"warm_start": warm_start})
    return train_foundation(config, events=log[0], labels=log[1], out=str(out))


def figures(manifest: ModelManifest) -> dict[str, float | None]:
    """Return all figures of a model's quality, overall and on each window, by name."""
    qualities = {str(quality.window): quality.tasks for quality in manifest.qualities} | {"overall": manifest.overall}
    return {
        f"{part}.{task}.{name}": figure
        for part, tasks in qualities.items()
        for task, quality in tasks.items()
        for name, figure in quality.to_dict().items()
    }


def flip(stream: Stream, index: int, folder: Path) -> Ref:
    """Return a copy of the stream's labels in which all of one window are the opposite."""
    shutil.copytree(stream.folder(stream.labels), folder)
    manifest = LabelsManifest.read(folder)
    window = next(window for window in manifest.windows if window.index == index)
    rows = read_partition(folder, window)
    write_partition(rows.with_columns((1 - pl.col("label.click")).alias("label.click")), folder, window)
    manifest.write(folder)
    return ref_to(str(folder))


def windows_of(stream: Stream) -> tuple[Window, ...]:
    return LabelsManifest.read(stream.folder(stream.labels)).windows


def spoil(learner: LabelLearner) -> None:
    with torch.no_grad():
        next(learner.model.network.parameters()).fill_(float("nan"))


def run_on(
    stream: Stream,
    learner: LabelLearner,
    folder: Path,
    on_window: OnWindow = lambda num_done, num_windows: None,
) -> ModelManifest:
    known = LabelsManifest.read(stream.folder(stream.labels))
    data = Data(
        datasets=(stream.folder(stream.events) / "impressions", stream.folder(stream.labels)),
        log_schema=stream.schema,
        schema=stream.schema.select(tasks=("click",)),
        windows=known.windows,
        known_until=known.known_until,
    )
    config = TrainingConfig(batch_size=256)
    return run_training(learner, data, config, folder=folder, name="fm", snapshot_every=0, on_window=on_window)
