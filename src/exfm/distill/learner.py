"""How a vertical model learns from foundation models that it never calls.

Legend: B examples, H hidden units, T tasks.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exfm.artifact.manifest import Window
from exfm.distill.adapter import LEARNING_RATE, StudentAdapter
from exfm.distill.config import DistillationConfig
from exfm.distill.weights import AutoWeights, Weights, fixed_weights
from exfm.events.examples import Examples, Floats, PseudoLabels
from exfm.models.ranking import RankingModel
from exfm.training.learner import Learner, weighted_loss
from exfm.training.manifest import TeacherWeight


class AuxiliaryHead(nn.Module):
    """A second head that alone meets the teacher, so its bias never reaches the served head.

    The heads share the trunk: what the teacher knows gets into the served model through the hidden state only.

    Source: ExFM (arXiv:2502.17494), abstract; loss and head reconstructed, see docs/decisions.md.
    """

    def __init__(self, num_units: int, num_tasks: int, *, gradient_scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(num_units, num_tasks)
        self._gradient_scale = gradient_scale

    def forward(self, hidden_BH: Tensor) -> Tensor:
        """Return logits to be held against the teacher; [B, T]."""
        logits_BT: Tensor = self.linear(scale_gradient(hidden_BH, self._gradient_scale))
        return logits_BT


def scale_gradient(values: Tensor, scale: float) -> Tensor:
    """Return the same values, whose gradient is multiplied by `scale` on its way back."""
    fixed = values.detach()
    return fixed + scale * (values - fixed)


class TeacherLoss(nn.Module):
    """The losses of one teacher, and the heads and the adapter that only they train."""

    def __init__(self, model: RankingModel, config: DistillationConfig) -> None:
        super().__init__()
        num_units, num_tasks = model.network.trunk.num_units, len(model.schema.labels)
        has_heads = config.method in ("auto", "ah", "ah+sa")
        has_adapter = config.method in ("auto", "sa", "ah+sa")

        def head() -> AuxiliaryHead:
            return AuxiliaryHead(num_units, num_tasks, gradient_scale=config.gradient_scale)

        self.head = head() if has_heads else None
        self.adapter = StudentAdapter(num_tasks) if has_adapter else None
        self.adapted_head = head() if has_heads and has_adapter else None
        self._scale = config.pseudo_label_scale if has_heads else 1.0

    def heads(self) -> Iterator[nn.Linear]:
        """Yield the layers that give a logit for each task."""
        return (head.linear for head in (self.head, self.adapted_head) if head is not None)

    def parts(
        self, hidden_BH: Tensor, served_BT: Tensor, *, examples: Examples, pseudo: PseudoLabels, weights: Weights
    ) -> Iterator[Tensor]:
        """Yield the losses whose weights are not all 0, given the served logits.

        Examples without a pseudo-label count as no loss. Where all weights are 0 no gradient changes, not by a bit.
        """
        is_known_BT = ~np.isnan(pseudo.probabilities_BT)
        if weights.plain_T.any():
            logits_BT = served_BT if self.head is None else self.head(hidden_BH)
            targets_BT = np.minimum(pseudo.probabilities_BT * np.float32(self._scale), np.float32(1))
            yield weighted_loss(logits_BT, targets_BT, examples.weights_BT * weights.plain_T)
        if weights.adapted_T.any():
            assert self.adapter is not None, "only methods with an adapter give it a weight"
            known_BT = np.where(is_known_BT, pseudo.probabilities_BT, np.float32(0.5))
            adapted_BT = self.adapter(torch.from_numpy(known_BT))
            labels_BT = np.where(is_known_BT, examples.labels_BT, np.float32(np.nan))
            yield weighted_loss(adapted_BT, labels_BT, examples.weights_BT)
            targets_BT = np.where(is_known_BT, adapted_BT.detach().sigmoid().numpy(), np.float32(np.nan))
            logits_BT = served_BT if self.adapted_head is None else self.adapted_head(hidden_BH)
            yield weighted_loss(logits_BT, targets_BT, examples.weights_BT * weights.adapted_T)


class DistillationLearner(Learner):
    """Labels train the serving head, teachers what the method says; both train trunk and tables.

    Several teachers share the method's weight in equal parts.
    """

    def __init__(self, model: RankingModel, config: DistillationConfig, *, teachers: Sequence[str]) -> None:
        super().__init__(model)
        torch.manual_seed(model.config.seed)
        self._losses = {teacher: TeacherLoss(model, config) for teacher in teachers}
        self.teacher_losses = nn.ModuleList(self._losses.values())
        self._auto: AutoWeights | None = None
        self.weights: dict[str, Weights] = {}
        """By teacher, now; a teacher that is not there has no weight yet."""
        weight = config.weight / max(len(teachers), 1)
        if config.method == "auto":
            self._auto = AutoWeights(teachers, model.schema.tasks(), weight=weight)
        else:
            fixed = fixed_weights(config.method, weight, num_tasks=len(model.schema.labels))
            self.weights = dict.fromkeys(teachers, fixed)

    @property
    def teacher_weights(self) -> tuple[TeacherWeight, ...]:
        """Return the weights that method `auto` gave, in the order of windows; other methods give none."""
        return tuple(self._auto.recorded) if self._auto else ()

    def heads(self) -> Iterator[nn.Linear]:
        """Yield the layers that give a logit for each task."""
        yield from super().heads()
        for loss in self._losses.values():
            yield from loss.heads()

    def begin(self, window: Window, examples: Examples, scores_BT: Floats) -> None:
        """Let method `auto` compute its weights anew."""
        if self._auto:
            self.weights = self._auto.update(window, examples, scores_BT)

    def loss(self, examples: Examples) -> Tensor:
        """Return the labels' loss plus the teachers' losses."""
        hidden_BH = self.model.hidden(examples.batches)
        served_BT = self.model.serve(hidden_BH)
        loss = weighted_loss(served_BT, examples.labels_BT, examples.weights_BT)
        for teacher, weights in self.weights.items():
            of_teacher = self._losses[teacher]
            pseudo = examples.pseudo[teacher]
            for part in of_teacher.parts(hidden_BH, served_BT, examples=examples, pseudo=pseudo, weights=weights):
                loss = loss + part
        return loss

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the adapters' parameters in a group of their own, with their own learning rate."""
        adapters = [loss.adapter for loss in self._losses.values() if loss.adapter is not None]
        own = [parameter for adapter in adapters for parameter in adapter.parameters()]
        if not own:
            return super().parameter_groups(learning_rate)
        is_own = {id(parameter) for parameter in own}
        shared = [parameter for _, parameter in self.dense_parameters() if id(parameter) not in is_own]
        return [{"params": shared, "lr": learning_rate}, {"params": own, "lr": LEARNING_RATE}]
