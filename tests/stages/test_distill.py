"""Vertical models learn from a teacher without serving its bias."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stream import Stream

from exfm.artifact.manifest import Window
from exfm.artifact.storage import Ref
from exfm.distill.config import VerticalConfig
from exfm.distill.learner import DistillationLearner
from exfm.distill.stage import train_vertical
from exfm.errors import ConfigError, SchemaError
from exfm.events.examples import Examples, examples_of, read_frame
from exfm.models.ranking import RankingModel
from exfm.training.evaluation import read_predictions
from exfm.training.learner import LabelLearner
from exfm.training.loop import dense_optimizer
from exfm.training.manifest import ModelManifest

pytestmark = pytest.mark.slow


@pytest.fixture
def taught(stream: Stream, examples: Ref, vertical_config: VerticalConfig) -> Examples:
    """Return a window of examples that have pseudo-labels."""
    window = Window(index=6, start=0, end=1)
    frame = read_frame([stream.folder(examples)], window, stream.schema)
    return examples_of(frame, stream.schema.select(tasks=vertical_config.tasks), fm="fm")


def learner_for(stream: Stream, config: VerticalConfig, *, teacher_weight: float = 1.0) -> DistillationLearner:
    schema = stream.schema.select(tasks=config.tasks)
    return DistillationLearner(RankingModel(schema, config.model), teacher_weight=teacher_weight)


def test_the_teacher_never_moves_the_served_head(
    stream: Stream, vertical_config: VerticalConfig, taught: Examples
) -> None:
    learner = learner_for(stream, vertical_config)
    hidden_BH = learner.model.hidden(taught.batches)
    learner.teacher_loss(hidden_BH, taught).backward()
    head = learner.model.network.serving_head
    assert head.weight.grad is None
    assert head.bias.grad is None
    assert learner.auxiliary_head.linear.weight.grad is not None
    trunk_gradients = [parameter.grad for parameter in learner.model.network.trunk.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in trunk_gradients)


def test_a_teacher_that_is_always_wrong_by_a_constant_leaves_calibration_alone(
    stream: Stream, vertical_config: VerticalConfig, taught: Examples
) -> None:
    biased = Examples(
        keys=taught.keys,
        domains=taught.domains,
        batches=taught.batches,
        labels_BT=taught.labels_BT,
        pseudo_BT=np.full_like(taught.pseudo_BT, 0.9),
        weights_BT=taught.weights_BT,
    )
    learner = learner_for(stream, vertical_config)
    optimizer = dense_optimizer(learner, vertical_config.training.model_copy(update={"learning_rate": 0.02}))
    for _ in range(60):
        optimizer.zero_grad()
        learner.loss(biased).backward()
        optimizer.step()
    served = learner.model.probabilities(biased.batches).mean()
    with torch.no_grad():
        auxiliary = learner.auxiliary_head(learner.model.hidden(biased.batches)).sigmoid().mean().item()
    assert auxiliary > 0.8
    assert served == pytest.approx(np.nanmean(biased.labels_BT), abs=0.03)


def test_examples_without_a_pseudo_label_teach_nothing_to_the_auxiliary_head(
    stream: Stream, vertical_config: VerticalConfig, taught: Examples
) -> None:
    without = examples_of(
        read_frame([stream.folder(stream.events) / "impressions", stream.folder(stream.labels)],
                   Window(index=6, start=0, end=1), stream.schema),
        stream.schema.select(tasks=vertical_config.tasks),
    )  # fmt: skip
    assert np.isnan(without.pseudo_BT).all()
    learner = learner_for(stream, vertical_config)
    loss = learner.loss(without)
    loss.backward()
    assert learner.auxiliary_head.linear.weight.grad is not None
    assert learner.auxiliary_head.linear.weight.grad.abs().sum() == 0
    alone = LabelLearner(RankingModel(learner.model.schema, vertical_config.model))
    assert float(loss.detach()) == pytest.approx(float(alone.loss(without).detach()), rel=1e-6)


def test_the_auxiliary_head_is_not_in_what_is_served(stream: Stream, vertical: Ref) -> None:
    manifest = ModelManifest.read(stream.folder(vertical))
    served = RankingModel(manifest.feature_schema, manifest.model)
    assert manifest.num_parameters == served.num_parameters()
    assert not [name for name in served.state_dict() if "auxiliary" in name]


def test_a_vertical_model_learns_from_its_domains_and_tasks_only(stream: Stream, vertical: Ref) -> None:
    folder = stream.folder(vertical)
    manifest = ModelManifest.read(folder)
    predictions = read_predictions(folder / "predictions", manifest.windows)
    assert predictions[stream.schema.domain].unique().to_list() == ["search"]
    assert "score.conversion" not in predictions.columns
    assert [label.name for label in manifest.feature_schema.labels] == ["click"]


def test_the_twin_without_a_teacher_is_told_apart(stream: Stream, vertical: Ref) -> None:
    manifest = ModelManifest.read(stream.folder(vertical))
    assert manifest.teacher == "fm"
    assert manifest.label_only.keys() == manifest.overall.keys() == {"click"}
    assert manifest.label_only["click"].num_examples == manifest.overall["click"].num_examples
    assert manifest.label_only["click"] != manifest.overall["click"]


def test_the_walk_of_a_model_and_its_twin_is_told_as_one(
    examples: Ref, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    manifest = train_vertical(
        vertical_config,
        teacher="fm",
        examples=examples,
        out=str(tmp_path / "vm"),
        on_window=lambda *walked: seen.append(walked),
    )
    num_windows = 2 * len(manifest.windows)
    assert seen == [(num_done, num_windows) for num_done in range(1, num_windows + 1)]


def test_pseudo_labels_of_another_teacher_are_refused(
    stream: Stream, examples: Ref, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'search-ads': no pseudo-labels of 'other' in .*; there are those of fm"):
        train_vertical(vertical_config, teacher="other", examples=examples, out=str(tmp_path / "vm"))
    assert not (tmp_path / "vm").exists()


def test_a_task_that_the_schema_lacks_is_refused(
    examples: Ref, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    config = vertical_config.model_copy(update={"tasks": ("buy",)})
    with pytest.raises(SchemaError, match="unknown task 'buy'; the schema has click, conversion"):
        train_vertical(config, teacher="fm", examples=examples, out=str(tmp_path / "vm"))
