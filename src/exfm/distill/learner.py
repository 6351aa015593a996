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
from exfm.distill.shares import AutoShares, Share
from exfm.events.examples import Examples, Floats, PseudoLabels
from exfm.models.ranking import Inputs, RankingModel
from exfm.training.learner import Learner, weighted_loss
from exfm.training.manifest import TeacherWeight


class AuxiliaryHead(nn.Module):
    """A second head that alone meets the teacher, so its bias never reaches the served head.

    The heads share the trunk: what the teacher knows gets into the served model through the hidden state only.

    Source: ExFM (arXiv:2502.17494), abstract; loss and head reconstructed, see docs/decisions.md.
    """

    def __init__(self, num_units: int, num_tasks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_units, num_tasks)

    def forward(self, hidden_BH: Tensor, gradient_scale: float) -> Tensor:
        """Return logits to be held against the teacher, [B, T]; the gradient into the trunk is scaled."""
        logits_BT: Tensor = self.linear(hidden_BH.detach() + gradient_scale * (hidden_BH - hidden_BH.detach()))
        return logits_BT


class TeacherLoss(nn.Module):
    """The losses of one teacher, and the heads and the adapter that only they train."""

    def __init__(self, model: RankingModel, config: DistillationConfig, *, weight: float) -> None:
        super().__init__()
        num_units, num_tasks = model.network.trunk.num_units, len(model.schema.labels)
        has_heads = config.method in ("ah", "ah+sa")
        has_adapter = config.method in ("sa", "ah+sa")
        self.head = AuxiliaryHead(num_units, num_tasks) if has_heads else None
        self.adapter = StudentAdapter(num_tasks) if has_adapter else None
        self.adapted_head = AuxiliaryHead(num_units, num_tasks) if has_heads and has_adapter else None
        self._is_plain = config.method in ("auto", "kd", "ah", "ah+sa")
        self._weight = weight
        self._gradient_scale = config.gradient_scale
        self._pseudo_label_scale = config.pseudo_label_scale if has_heads else 1.0

    def heads(self) -> Iterator[nn.Linear]:
        """Yield the layers that give a logit for each task."""
        return (head.linear for head in (self.head, self.adapted_head) if head is not None)

    def parts(
        self, hidden_BH: Tensor, served_BT: Tensor, *, examples: Examples, pseudo: PseudoLabels, share: Share
    ) -> Iterator[Tensor]:
        """Yield the losses, given the served logits; examples without a pseudo-label count as none."""

        def against(targets_BT: Floats, head: AuxiliaryHead | None) -> Tensor:
            logits_BT = head(hidden_BH, self._gradient_scale) if head is not None else served_BT
            return self._weight * weighted_loss(logits_BT, targets_BT, examples.weights_BT * share.weights_T)

        if self._is_plain:
            scale = np.float32(self._pseudo_label_scale)
            yield against(np.minimum(scale * share.targets(pseudo.probabilities_BT), np.float32(1)), self.head)
        if self.adapter is not None:
            is_known_BT = ~np.isnan(pseudo.probabilities_BT)
            known_BT = np.where(is_known_BT, pseudo.probabilities_BT, np.float32(0.5))
            adapted_BT = self.adapter(torch.from_numpy(known_BT))
            labels_BT = np.where(is_known_BT, examples.labels_BT, np.float32(np.nan))
            yield weighted_loss(adapted_BT, labels_BT, examples.weights_BT)
            targets_BT = np.where(is_known_BT, adapted_BT.detach().sigmoid().numpy(), np.float32(np.nan))
            yield against(targets_BT, self.adapted_head)


class DistillationLearner(Learner):
    """Labels train the serving head, teachers what the method says; both train trunk and tables.

    Several teachers share the method's weight in equal parts.
    """

    def __init__(self, model: RankingModel, config: DistillationConfig, *, teachers: Sequence[str]) -> None:
        super().__init__(model)
        torch.manual_seed(model.config.seed)
        tasks = model.schema.tasks()
        weight = config.weight / max(len(teachers), 1)
        taught_by = teachers if config.method != "label" else ()
        self._losses = {teacher: TeacherLoss(model, config, weight=weight) for teacher in taught_by}
        self.teacher_losses = nn.ModuleList(self._losses.values())
        self._auto = AutoShares(teachers, tasks, weight=weight) if config.method == "auto" else None
        self.shares: dict[str, Share] = {} if self._auto else dict.fromkeys(taught_by, Share.whole(len(tasks)))
        """By teacher; of one that is not there nothing is learned."""

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
        """Let method `auto` compute its shares anew."""
        if self._auto:
            self.shares = self._auto.update(window, examples, scores_BT)

    def loss(self, examples: Examples, inputs: Inputs) -> Tensor:
        """Return the labels' loss plus the teachers' losses."""
        hidden_BH = self.model.hidden(inputs)
        served_BT = self.model.serve(hidden_BH)
        loss = weighted_loss(served_BT, examples.labels_BT, examples.weights_BT)
        for teacher, share in self.shares.items():
            of_teacher = self._losses[teacher]
            pseudo = examples.pseudo[teacher]
            for part in of_teacher.parts(hidden_BH, served_BT, examples=examples, pseudo=pseudo, share=share):
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
