"""A ranking model together with the loss it learns by.

Legend: B examples, T tasks.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exfm.artifact.manifest import Window
from exfm.events.examples import Examples, Floats
from exfm.models.ranking import Inputs, RankingModel
from exfm.training.base_rate import BaseRate
from exfm.training.manifest import TeacherWeight
from exfm.training.shrinkage import Shrinkage

_TABLES_PREFIX = "model.tables."
"""Prefix of the parameters that FBGEMM itself updates inside backward()."""


class Learner(nn.Module):
    """A model, and what it learns from."""

    def __init__(self, model: RankingModel) -> None:
        super().__init__()
        self.model = model
        self.shrinkage = Shrinkage(len(model.schema.labels))

    @abstractmethod
    def loss(self, examples: Examples, inputs: Inputs) -> Tensor:
        """Return the loss of a minibatch with these inputs, a scalar whose gradient trains everything."""

    def start(self, examples: Examples) -> None:
        """Set every head's bias to the logit of the base rate; called once, with the first window that is learned."""
        logits_T = torch.from_numpy(BaseRate.of(examples).logits())
        with torch.no_grad():
            for head in self.heads():
                head.bias.copy_(logits_T)

    def heads(self) -> Iterator[nn.Linear]:
        """Yield the layers that give a logit for each task."""
        yield self.model.network.serving_head

    @property
    def teacher_weights(self) -> tuple[TeacherWeight, ...]:
        """Return how strongly it learned from each teacher, by window; empty: nothing to tell."""
        return ()

    def begin(self, window: Window, examples: Examples, scores_BT: Floats) -> None:
        """Take note of a window before it is learned; `scores_BT` are the probabilities with which it was tested."""

    def dense_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the names and parameters that the dense optimizer updates."""
        return ((name, value) for name, value in self.named_parameters() if not name.startswith(_TABLES_PREFIX))

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return these parameters in groups as torch's optimizers take them, each with its learning rate."""
        return [{"params": [value for _, value in self.dense_parameters()], "lr": learning_rate}]


class LabelLearner(Learner):
    """Learns from labels alone: a foundation model, or a vertical model without a teacher."""

    def loss(self, examples: Examples, inputs: Inputs) -> Tensor:
        """Return the labels' loss, averaged over examples and tasks."""
        logits_BT = self.model.serve(self.model.hidden(inputs))
        return weighted_loss(logits_BT, examples.labels_BT, examples.weights_BT)


def weighted_loss(logits_BT: Tensor, targets_BT: Floats, weights_BT: Floats) -> Tensor:
    """Return the mean binary cross-entropy against targets in [0, 1]; unknown targets (NaN) count as no loss.

    The mean is over B x T, known or not, so that a minibatch with few known targets does not pull harder at them.
    """
    known_BT = ~np.isnan(targets_BT)
    device = logits_BT.device
    targets = torch.from_numpy(np.where(known_BT, targets_BT, np.float32(0))).to(device)
    weights = torch.from_numpy(np.where(known_BT, weights_BT, np.float32(0))).to(device)
    return functional.binary_cross_entropy_with_logits(logits_BT, targets, weights)
