"""How a vertical model learns from a foundation model that it never calls.

Legend: B examples, H hidden units, T tasks.
"""

import torch
from torch import Tensor, nn

from exfm.events.examples import Examples
from exfm.models.ranking import RankingModel
from exfm.training.learner import Learner, weighted_loss


class AuxiliaryHead(nn.Module):
    """A second head that alone meets the teacher, so its bias never reaches the served head.

    The two heads share the trunk: what the teacher knows gets into the served model through the hidden state only.

    Source: ExFM (arXiv:2502.17494), abstract; loss and head are reconstructed, see docs/decisions.md.
    """

    def __init__(self, num_units: int, num_tasks: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_units, num_tasks)

    def forward(self, hidden_BH: Tensor) -> Tensor:
        """Return logits to be held against pseudo-labels; [B, T]."""
        logits_BT: Tensor = self.linear(hidden_BH)
        return logits_BT


class DistillationLearner(Learner):
    """Labels train the serving head, pseudo-labels the auxiliary head, both train trunk and tables."""

    def __init__(self, model: RankingModel, *, teacher_weight: float) -> None:
        super().__init__(model)
        torch.manual_seed(model.config.seed)
        self.auxiliary_head = AuxiliaryHead(model.network.trunk.num_units, len(model.schema.labels))
        self._teacher_weight = teacher_weight

    def loss(self, examples: Examples) -> Tensor:
        """Return the labels' loss plus `teacher_weight` times the pseudo-labels' loss."""
        hidden_BH = self.model.hidden(examples.batches)
        label_loss = weighted_loss(self.model.serve(hidden_BH), examples.labels_BT, examples.weights_BT)
        return label_loss + self._teacher_weight * self.teacher_loss(hidden_BH, examples)

    def teacher_loss(self, hidden_BH: Tensor, examples: Examples) -> Tensor:
        """Return the loss against the pseudo-labels; examples without one (NaN) count as none."""
        return weighted_loss(self.auxiliary_head(hidden_BH), examples.pseudo_BT, examples.weights_BT)
