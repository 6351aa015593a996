"""Vertical models learn from teachers as the method says, and only the label head is served."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import safetensors
import torch
from scipy.special import expit, logit
from stream import Stream
from world import TEACHERS, World, make_world

from exfm.artifact.storage import Ref
from exfm.das.advance import learn
from exfm.das.publishing import model_manifest
from exfm.distill.adapter import LEARNING_RATE, StudentAdapter
from exfm.distill.config import DistillationConfig, Method, VerticalConfig
from exfm.distill.lead import Calibration
from exfm.distill.learner import AuxiliaryHead, DistillationLearner, TeacherLoss
from exfm.distill.line import vertical_line
from exfm.distill.shares import Share
from exfm.errors import ConfigError, SchemaError
from exfm.events.examples import Examples, ExampleTable, Floats, examples_of
from exfm.models.ranking import RankingModel
from exfm.training.base_rate import BaseRate
from exfm.training.checkpoint import save_weights
from exfm.training.config import TrainingConfig
from exfm.training.evaluation import predictions_of
from exfm.training.learner import LabelLearner
from exfm.training.manifest import ModelManifest, TeacherWeight
from exfm.training.trainer import Trainer

pytestmark = pytest.mark.slow

METHODS: tuple[Method, ...] = get_args(Method)
ONE = np.ones(1, dtype=np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), num_impressions=16_000, num_windows=10, seed=2)


@pytest.fixture
def taught(stream: Stream, examples: ExampleTable, vertical_config: VerticalConfig) -> Examples:
    """Return a window of examples, of which the second half has pseudo-labels."""
    frame = examples.read(examples.windows[6])
    taught = examples_of(frame, stream.schema.select(tasks=vertical_config.tasks), teachers=["fm"])
    pseudo_BT = taught.pseudo["fm"].probabilities_BT.copy()
    pseudo_BT[: len(pseudo_BT) // 2] = np.nan
    return with_pseudo_labels(taught, pseudo_BT)


def with_pseudo_labels(examples: Examples, pseudo_BT: Floats) -> Examples:
    return replace(examples, pseudo={"fm": replace(examples.pseudo["fm"], probabilities_BT=pseudo_BT)})


def learner_for(
    stream: Stream, config: VerticalConfig, method: Method = "ah", **settings: float
) -> DistillationLearner:
    schema = stream.schema.select(tasks=config.tasks)
    distillation = DistillationConfig.parse({"method": method} | settings, source="test")
    learner = DistillationLearner(RankingModel(schema, config.model), distillation, teachers=["fm"])
    for loss in learner.teacher_losses:  # so that the adapter is not the identity
        assert isinstance(loss, TeacherLoss)
        if loss.adapter is not None:
            torch.nn.init.constant_(loss.adapter.last.bias, 0.3)
    return learner


def loss_of(learner: DistillationLearner) -> TeacherLoss:
    loss = learner.teacher_losses[0]
    assert isinstance(loss, TeacherLoss)
    return loss


def h(logits_BT: torch.Tensor, targets_BT: npt.NDArray[np.floating]) -> float:
    """Return the cross-entropy, in which a NaN target is no loss, by its definition."""
    probabilities_BT = logits_BT.detach().double().sigmoid().numpy()
    losses_BT = -(targets_BT * np.log(probabilities_BT) + (1 - targets_BT) * np.log(1 - probabilities_BT))
    return float(np.nan_to_num(losses_BT).mean())


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_is_that_of_the_method(
    method: Method, stream: Stream, vertical_config: VerticalConfig, taught: Examples
) -> None:
    learner = learner_for(stream, vertical_config, method, weight=0.7, pseudo_label_scale=4.0)
    pseudo_BT = taught.pseudo["fm"].probabilities_BT
    hidden_BH = learner.model.hidden(learner.model.inputs(taught.batches))
    served_BT = learner.model.serve(hidden_BH)
    logits_BT = np.log(pseudo_BT / (1 - pseudo_BT))
    expected = h(served_BT, taught.labels_BT)
    if method == "kd":
        expected += 0.7 * h(served_BT, pseudo_BT)
    own = loss_of(learner) if method not in ("label", "auto") else None  # auto: no window has begun
    if own and own.head is not None:
        expected += 0.7 * h(own.head(hidden_BH, 1), np.minimum(4 * pseudo_BT, 1))
    if own and own.adapter is not None:  # its first layer's part is 0 yet
        adapted_BT = np.where(np.isnan(pseudo_BT), np.nan, 1 / (1 + np.exp(-(logits_BT + 0.3))))
        expected += h(torch.from_numpy(logits_BT + 0.3), np.where(np.isnan(pseudo_BT), np.nan, taught.labels_BT))
        head = own.adapted_head
        expected += 0.7 * h(served_BT if head is None else head(hidden_BH, 1), adapted_BT)
    assert np.nanmax(4 * pseudo_BT) > 1
    assert float(learner.loss(taught, learner.model.inputs(taught.batches)).detach()) == pytest.approx(
        expected, rel=1e-5
    )


def test_the_serving_head_of_auto_learns_calibrated_pseudo_labels_by_its_teachers_share(
    stream: Stream, vertical_config: VerticalConfig, taught: Examples
) -> None:
    learner = learner_for(stream, vertical_config, "auto", weight=0.7)
    calibration = Calibration(base=-1.0, scale=0.25, shift=-0.5, std_error=0.1)
    learner.shares = {"fm": Share(weights_T=0.4 * ONE, calibrations=(calibration,))}
    inputs = learner.model.inputs(taught.batches)
    served_BT = learner.model.serve(learner.model.hidden(inputs))
    calibrated_BT = expit(0.25 * (logit(taught.pseudo["fm"].probabilities_BT) + 1) - 0.5)
    expected = h(served_BT, taught.labels_BT) + 0.7 * 0.4 * h(served_BT, calibrated_BT)
    assert float(learner.loss(taught, inputs).detach()) == pytest.approx(expected, rel=1e-5)


def test_methods_have_the_parts_that_they_train(stream: Stream, vertical_config: VerticalConfig) -> None:
    def parts(method: Method) -> tuple[bool, bool, bool]:
        own = loss_of(learner_for(stream, vertical_config, method))
        return own.head is not None, own.adapter is not None, own.adapted_head is not None

    assert not list(learner_for(stream, vertical_config, "label").teacher_losses)
    assert {method: parts(method) for method in METHODS if method != "label"} == {
        "auto": (False, False, False),
        "kd": (False, False, False),
        "ah": (True, False, False),
        "sa": (False, True, False),
        "ah+sa": (True, True, True),
    }


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_an_auxiliary_heads_gradient_into_the_trunk_is_scaled_and_its_logits_are_not(scale: float) -> None:
    torch.manual_seed(0)
    head, hidden_BH = AuxiliaryHead(3, 2), torch.randn(5, 3, requires_grad=True)
    logits_BT = head(hidden_BH, scale)
    assert torch.equal(logits_BT, head.linear(hidden_BH))
    logits_BT.sum().backward()
    assert hidden_BH.grad is not None
    torch.testing.assert_close(hidden_BH.grad, scale * head.linear.weight.detach().sum(0).expand(5, 3))
    assert head.linear.weight.grad is not None
    torch.testing.assert_close(head.linear.weight.grad, hidden_BH.detach().sum(0).expand(2, 3))


@pytest.mark.parametrize("method", ["ah", "ah+sa"])
def test_a_teachers_gradient_is_scaled_in_the_trunk_but_not_in_its_own_head(
    method: Method, stream: Stream, vertical_config: VerticalConfig, taught: Examples
) -> None:
    gradients = {}
    for scale in (1.0, 3.0):
        learner = learner_for(stream, vertical_config, method, gradient_scale=scale)
        teachers_loss(learner, taught).backward()
        gradients[scale] = {name: value.grad for name, value in learner.dense_parameters() if value.grad is not None}
    trunk = [name for name in gradients[1.0] if name.startswith("model.network.trunk.")]
    assert len(trunk) == len(list(learner.model.network.trunk.parameters()))
    for name, gradient in gradients[1.0].items():
        torch.testing.assert_close(gradients[3.0][name], gradient * (3 if name in trunk else 1))


@pytest.mark.parametrize("method", ["ah", "ah+sa"])
def test_the_teacher_never_moves_the_served_head(
    method: Method, stream: Stream, vertical_config: VerticalConfig, taught: Examples
) -> None:
    learner = learner_for(stream, vertical_config, method)
    teachers_loss(learner, taught).backward()
    head, own = learner.model.network.serving_head, loss_of(learner)
    assert head.weight.grad is None
    assert head.bias.grad is None
    assert own.head is not None
    assert own.head.linear.weight.grad is not None
    trunk_gradients = [parameter.grad for parameter in learner.model.network.trunk.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in trunk_gradients)


def teachers_loss(learner: DistillationLearner, examples: Examples) -> torch.Tensor:
    """Return the loss without the labels'."""
    unknown = replace(examples, labels_BT=np.full_like(examples.labels_BT, np.nan))
    own = loss_of(learner)
    hidden_BH = learner.model.hidden(learner.model.inputs(examples.batches))
    parts = own.parts(
        hidden_BH,
        learner.model.serve(hidden_BH),
        examples=unknown,
        pseudo=examples.pseudo["fm"],
        share=learner.shares["fm"],
    )
    return torch.stack(list(parts)).sum()


def test_an_adapter_starts_as_the_identity_and_learns_what_is_wrong_with_its_teacher() -> None:
    rng = np.random.default_rng(0)
    truth_BT = rng.uniform(0.02, 0.45, (4000, 1)).astype(np.float32)
    labels_BT = torch.from_numpy((rng.random((4000, 1)) < truth_BT).astype(np.float32))
    doubled_BT = torch.from_numpy(2 * truth_BT)
    torch.manual_seed(0)
    adapter = StudentAdapter(1)
    with torch.no_grad():
        torch.testing.assert_close(adapter(doubled_BT).sigmoid(), doubled_BT)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=LEARNING_RATE)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(adapter(doubled_BT), labels_BT).backward()
        optimizer.step()
    with torch.no_grad():
        assert (adapter(doubled_BT).sigmoid() - torch.from_numpy(truth_BT)).abs().mean() < 0.02


def test_adapters_learn_at_their_own_rate(stream: Stream, vertical_config: VerticalConfig) -> None:
    learner = learner_for(stream, vertical_config, "ah+sa")
    shared, own = learner.parameter_groups(0.001)
    adapter = loss_of(learner).adapter
    assert adapter is not None
    assert (shared["lr"], own["lr"]) == (0.001, 0.005)
    assert {id(value) for value in own["params"]} == {id(value) for value in adapter.parameters()}
    assert len(shared["params"]) + len(own["params"]) == len(list(learner.dense_parameters()))


@pytest.mark.parametrize("method", METHODS)
def test_examples_without_a_pseudo_label_teach_by_their_labels_only(
    method: Method, stream: Stream, vertical_config: VerticalConfig, taught: Examples
) -> None:
    without = with_pseudo_labels(taught, np.full_like(taught.labels_BT, np.nan))
    learner = learner_for(stream, vertical_config, method)
    loss = learner.loss(without, learner.model.inputs(without.batches))
    loss.backward()
    assert all(value.grad is None or value.grad.abs().sum() == 0 for value in learner.teacher_losses.parameters())
    alone = LabelLearner(RankingModel(learner.model.schema, vertical_config.model))
    assert float(loss.detach()) == pytest.approx(
        float(alone.loss(without, alone.model.inputs(without.batches)).detach()), rel=1e-6
    )


def test_all_heads_start_at_the_base_rate(stream: Stream, vertical_config: VerticalConfig, taught: Examples) -> None:
    learner = learner_for(stream, vertical_config, "ah+sa")
    learner.start(taught)
    rate = BaseRate.of(taught).rates().item()
    assert len(list(learner.heads())) == 3
    for head in learner.heads():
        assert head.bias.detach().sigmoid().item() == pytest.approx(rate, rel=1e-4)


def test_two_teachers_share_the_weight(stream: Stream, vertical_config: VerticalConfig, taught: Examples) -> None:
    schema, config = stream.schema.select(tasks=("click",)), DistillationConfig(method="kd", weight=2.0)
    two = replace(taught, pseudo={"one": taught.pseudo["fm"], "other": taught.pseudo["fm"]})
    alone = DistillationLearner(RankingModel(schema, vertical_config.model), config, teachers=["fm"])
    both = DistillationLearner(RankingModel(schema, vertical_config.model), config, teachers=["one", "other"])
    assert both.loss(two, both.model.inputs(two.batches)).item() == pytest.approx(
        alone.loss(taught, alone.model.inputs(taught.batches)).item(), rel=1e-6
    )


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"auto"}))
def test_a_distilled_model_goes_on_bit_by_bit_where_it_was_saved(
    method: Method, world: World, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    def trainer() -> Trainer:
        config = DistillationConfig(method=method)
        model = RankingModel(world.schema, vertical_config.model)
        return Trainer(DistillationLearner(model, config, teachers=["stale"]), TrainingConfig(batch_size=256))

    def learn(trainer: Trainer, index: int) -> None:
        examples = world.examples[index]
        trainer.learn(world.windows[index], examples, trainer.test(examples))

    at_once, first, second = trainer(), trainer(), trainer()
    for one in (at_once, first):
        learn(one, 0)
    save_weights(first.learner, tmp_path)
    first.save_state(tmp_path)
    second.go_on(tmp_path)
    for one in (at_once, second):
        learn(one, 1)
    values = [
        dict(one.learner.named_parameters())
        | {name: torch.from_numpy(value) for name, value in one.learner.shrinkage.state().items()}
        for one in (at_once, second)
    ]
    assert all(torch.equal(value, values[1][name]) for name, value in values[0].items())


def test_served_files_hold_the_label_head_only(vertical: Ref, bundle: Ref) -> None:
    manifest = ModelManifest.read(Path(vertical.uri))
    served = RankingModel(manifest.feature_schema, manifest.model)
    assert manifest.num_parameters == served.num_parameters()
    dense = {f"dense.{name}" for name in served.network.state_dict()}
    tables = {f"table.{table.name}" for table in manifest.feature_schema.tables}
    last = Path(vertical.uri) / manifest.snapshots[-1].folder
    with safetensors.safe_open(last / "weights.safetensors", "pt") as weights:
        assert set(weights.keys()) == dense | tables
    with safetensors.safe_open(last / "training.safetensors", "pt") as state:
        assert "head.teacher_losses.0.head.linear.weight" in state.keys()  # noqa: SIM118
    with safetensors.safe_open(Path(bundle.uri) / "ranker/dense.safetensors", "pt") as ranker:
        assert set(ranker.keys()) == set(served.network.state_dict())


def test_a_teacher_whose_predictions_are_doubled_moves_kd_but_not_an_auxiliary_head(
    world: World, vertical_config: VerticalConfig
) -> None:
    def calibration(method: Method) -> float:
        config = DistillationConfig(method=method)
        learner = DistillationLearner(RankingModel(world.schema, vertical_config.model), config, teachers=["doubled"])
        found = world.quality(world.walk(learner)).calibration
        assert found is not None
        return found

    assert calibration("ah") == pytest.approx(1, abs=0.1)
    assert abs(calibration("kd") - 1) > 0.3


@pytest.mark.parametrize("teacher", TEACHERS)
def test_auto_is_never_worse_than_label_only(
    teacher: str, world: World, vertical_config: VerticalConfig, label_only: Floats
) -> None:
    learner = DistillationLearner(
        RankingModel(world.schema, vertical_config.model), DistillationConfig(), teachers=[teacher]
    )
    scores_NT = world.walk(learner)
    auto, alone = (world.quality(scores).normalized_entropy for scores in (scores_NT, label_only))
    assert auto is not None
    assert alone is not None
    weights = [chosen.weight for chosen in learner.teacher_weights]
    if teacher == "noise":
        assert set(weights) == {0}
        np.testing.assert_array_equal(scores_NT, label_only)
    else:
        assert max(weights) >= {"good": 2.7, "doubled": 1.5, "stale": 1.5, "blurred": 0.5}[teacher]
        assert max(weights) <= (1 if teacher == "blurred" else 3), "noise in its pseudo-labels costs it weight"
        assert auto < alone + 0.001


@pytest.fixture(scope="module")
def label_only(world: World, vertical_config: VerticalConfig) -> Floats:
    return world.walk(LabelLearner(RankingModel(world.schema, vertical_config.model)))


def test_auto_learns_from_the_teacher_that_leads(world: World, vertical_config: VerticalConfig) -> None:
    learner = DistillationLearner(
        RankingModel(world.schema, vertical_config.model), DistillationConfig(), teachers=["noise", "good"]
    )
    world.walk(learner)
    most = {name: max(c.weight for c in learner.teacher_weights if c.teacher == name) for name in ("noise", "good")}
    assert most["noise"] == 0
    assert 1.35 < most["good"] <= 1.5, "half of the weight, less what is noise"


def test_a_vertical_model_learns_from_its_domains_and_tasks_only(stream: Stream, vertical: Ref) -> None:
    manifest = ModelManifest.read(Path(vertical.uri))
    predictions = predictions_of(manifest, manifest.windows)
    assert predictions[stream.schema.domain].unique().to_list() == ["search"]
    assert [label.name for label in manifest.feature_schema.labels] == ["click"]


def test_the_weights_of_auto_are_recorded_for_each_window_that_was_learned_and_told(
    stream: Stream, foundation: Ref, vertical_config: VerticalConfig
) -> None:
    manifest = trained(stream, vertical_config, "auto")
    assert [(chosen.window, chosen.teacher, chosen.task) for chosen in manifest.teacher_weights] == [
        (snapshot.window, "fm", "click") for snapshot in manifest.snapshots
    ]
    assert "; auto: click " in manifest.headline()


def trained(stream: Stream, config: VerticalConfig, method: Method) -> ModelManifest:
    """Return a vertical model of the stream with another method."""
    changed = config.model_copy(update={"distillation": DistillationConfig(method=method)})
    line = vertical_line(changed, stream.schema, teachers=("fm",))
    for _ in learn(stream.das, line):
        pass
    return model_manifest(stream.das, line)


def test_the_headline_says_what_auto_chose_last(vertical: Ref) -> None:
    def chosen(task: str, window: int, weight: float, lead: float | None) -> TeacherWeight:
        return TeacherWeight(window=window, teacher="fm", task=task, weight=weight, lead=lead, lead_std_error=lead)

    weights = (
        chosen("like", 1, 0.1, 0.2),
        chosen("like", 2, 0.833, 0.0214),
        chosen("love", 2, 0, 0.001),
        chosen("buy", 2, 0, None),
    )
    manifest = ModelManifest.read(Path(vertical.uri)).model_copy(update={"teacher_weights": weights})
    assert manifest.headline().endswith("; auto: like 0.83 (lead 2.1 %), love 0 (no lead), buy 0 (too few positives)")


def test_a_label_only_model_needs_no_teacher(stream: Stream, foundation: Ref, vertical_config: VerticalConfig) -> None:
    manifest = trained(stream, vertical_config, "label")
    assert (manifest.teachers, manifest.teacher_weights) == ((), ())
    assert manifest.overall["click"].num_examples > 0


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run: distillation.method: .*'auto', 'label', 'kd', .* \(found 'magic'\)"):
        VerticalConfig.parse({"name": "search", "distillation": {"method": "magic"}}, source="run")


def test_the_weight_of_earlier_releases_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"teacher_weight is no longer a setting: set distillation.weight"):
        VerticalConfig.parse({"name": "search", "teacher_weight": 3.0}, source="run")


def test_a_task_that_the_schema_lacks_is_refused(stream: Stream, vertical_config: VerticalConfig) -> None:
    config = vertical_config.model_copy(update={"tasks": ("buy",)})
    with pytest.raises(SchemaError, match="unknown task 'buy'; the schema has click"):
        vertical_line(config, stream.schema, teachers=("fm",))
