"""A student adapter: makes better targets of an outdated foundation model's pseudo-labels.

Legend: B examples, T tasks.
"""

import torch
from torch import Tensor, nn

NUM_UNITS = 16
LEARNING_RATE = 0.005
"""Of Adam on the adapter, per step."""

_LEAST = 1e-6
"""Probability from which a pseudo-label's logit is finite enough."""


class StudentAdapter(nn.Module):
    """A residual network from pseudo-labels' logits to the labels' logits, trained by the labels.

    It starts as the identity, so that a pseudo-label counts as it is until labels say otherwise.

    Source: ExFM (arXiv:2502.17494), abstract; loss and network reconstructed, see docs/decisions.md.
    """

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.last = nn.Linear(NUM_UNITS, num_tasks)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.first = nn.Sequential(nn.Linear(num_tasks, NUM_UNITS), nn.ReLU())

    def forward(self, pseudo_BT: Tensor) -> Tensor:
        """Return logits, [B, T], for probabilities of a foundation model."""
        logits_BT = torch.logit(pseudo_BT, eps=_LEAST)
        adapted_BT: Tensor = logits_BT + self.last(self.first(logits_BT))
        return adapted_BT
