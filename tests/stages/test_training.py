"""Test, then train: in order of time, with labels used only once they are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import logit
from stream import Stream

from exfm.artifact.manifest import Window
from exfm.artifact.storage import Ref
from exfm.errors import StorageError
from exfm.events.examples import Examples, ExampleTable, Floats
from exfm.features.batch import NetBatches
from exfm.foundation.config import FoundationConfig
from exfm.foundation.line import foundation_line
from exfm.metrics.quality import normalized_entropy
from exfm.models.config import Interaction, ModelConfig, NetworkConfig
from exfm.models.ranking import RankingModel
from exfm.tables.grid import WINDOW
from exfm.training.checkpoint import load_weights, save_weights
from exfm.training.config import TrainingConfig
from exfm.training.data import Data
from exfm.training.evaluation import over_line
from exfm.training.learner import LabelLearner, weighted_loss
from exfm.training.line_trainer import MAX_NE_RATIO, LineTrainer
from exfm.training.loop import walk_windows
from exfm.training.manifest import BASE_RATE, Excess, ModelManifest
from exfm.training.trainer import Trainer

pytestmark = pytest.mark.slow


def windows(count: int, *, length: int = 10) -> list[Window]:
    return [Window(index=i, start=i * length, end=(i + 1) * length) for i in range(count)]


@pytest.fixture
def learner(stream: Stream, foundation_config: FoundationConfig) -> LabelLearner:
    return LabelLearner(RankingModel(stream.schema, foundation_config.model))


@pytest.fixture
def one_window(examples: ExampleTable) -> Examples:
    return Data(examples, examples.schema).read(examples.windows[1])


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
    assert one_pass(learner, one_window) == pytest.approx((0.6903, 0.4448), abs=2e-3)


@pytest.mark.parametrize(("interaction", "losses"), [("deepfm", (0.7480, 0.4537)), ("dlrm", (0.6807, 0.4788))])
def test_one_pass_lowers_the_loss_of_every_interaction(
    interaction: Interaction, losses: tuple[float, float], one_window: Examples, stream: Stream
) -> None:
    network = NetworkConfig(interaction=interaction, bottom_units=(4,), top_units=(8,))
    learner = LabelLearner(RankingModel(stream.schema, ModelConfig(network=network)))
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

    learner = Telling(RankingModel(stream.schema, foundation_config.model))
    trainer = Trainer(learner, TrainingConfig(batch_size=100))
    for window in windows(2):
        trainer.learn(window, one_window, trainer.test(one_window))
    assert told == [("start", len(one_window)), ("begin", 0), ("begin", 1)]


def test_labels_that_change_at_once_are_no_divergence(
    stream: Stream, foundation_config: FoundationConfig, one_window: Examples
) -> None:
    line = foundation_line(foundation_config, stream.schema)
    trainer, rng = LineTrainer(line, ""), np.random.default_rng(0)
    often = rng.integers(0, 2, one_window.labels_BT.shape).astype(np.float32)
    once = np.zeros_like(often)
    once[-1] = 1
    for window, labels_BT in zip(windows(2), (often, once), strict=True):
        trainer.learn(window, replace(one_window, labels_BT=labels_BT), np.full_like(labels_BT, 0.5))
    served_BT = trainer.learner.shrinkage.served(trainer.learner.model.logits(one_window.batches))
    found = normalized_entropy(served_BT[:, 0], once[:, 0], one_window.weights_BT[:, 0])
    assert found is not None
    assert found > MAX_NE_RATIO


def test_the_steps_alone_move_the_weights_as_learning_does_and_note_nothing_of_the_window(
    stream: Stream, foundation_config: FoundationConfig, one_window: Examples
) -> None:
    scored: list[int] = []

    class Model(RankingModel):
        def logits(self, batches: NetBatches) -> Floats:
            scored.append(len(batches.num_candidates))
            return super().logits(batches)

    whole, steps = (LabelLearner(Model(stream.schema, foundation_config.model)) for _ in range(2))
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


def test_weights_of_other_sizes_are_refused_by_name(
    foundation_config: FoundationConfig, tmp_path: Path, learner: LabelLearner
) -> None:
    save_weights(learner, tmp_path)
    wider = foundation_config.model.model_copy(update={"dim_factor": 4})
    with pytest.raises(StorageError, match=r"tensor 'dense.* has shape .*, expected .* train again"):
        load_weights(RankingModel(learner.model.schema.select(), wider), tmp_path)


def test_a_foundation_model_learns_something(foundation: Ref) -> None:
    overall = ModelManifest.read(Path(foundation.uri)).overall["click"]
    assert overall.auc is not None
    assert overall.auc > 0.55


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


def test_a_headline_begins_with_what_is_worse_than_the_base_rate(foundation: Ref) -> None:
    manifest = ModelManifest.read(Path(foundation.uri))
    worse, better = (Excess(entropy=value, low=value - 0.1, high=value + 0.1) for value in (0.0123, -0.0123))
    headline = manifest.model_copy(update={"over_base_rate": {"click": worse}}).headline()
    warning = "fm is worse than the base rate on click: NE difference +0.0123, 95 % interval [-0.0877, +0.1123]"
    assert headline.startswith(f"{warning}; fm: ")
    assert manifest.model_copy(update={"over_base_rate": {"click": better}}).headline().startswith("fm: ")
