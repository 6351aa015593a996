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

_TABLES_PREFIX = "model.tables."
"""Prefix of the parameters that FBGEMM itself updates inside backward()."""


class Learner(nn.Module):
    """A model, and what it learns from."""

    def __init__(self, model: RankingModel) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def loss(self, examples: Examples, inputs: Inputs) -> Tensor:
        """Return the loss of a minibatch with these inputs, a scalar whose gradient trains everything."""

    def start(self, examples: Examples) -> None:
        """Set every head's bias to the logit of the label rate; called once, with the first window that is learned.

        A task without a known label keeps its bias.
        """
        logits_T = torch.from_numpy(label_logits(examples.labels_BT, examples.weights_BT))
        with torch.no_grad():
            for head in self.heads():
                head.bias.copy_(torch.where(logits_T.isnan(), head.bias, logits_T))

    def heads(self) -> Iterator[nn.Linear]:
        """Yield the layers that give a logit for each task."""
        yield self.model.network.serving_head

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


def label_logits(labels_BT: Floats, weights_BT: Floats) -> Floats:
    """Return the logit of each task's label rate, [T]; NaN where no label is known.

    A rate without positives, or without negatives, counts as if half an example were one.
    """
    known_BT = ~np.isnan(labels_BT)
    num_known_T = known_BT.sum(axis=0)
    weights_BT = np.where(known_BT, weights_BT, 0).astype(np.float64)
    with np.errstate(invalid="ignore"):  # 0 / 0 where none is known
        rates_T = (weights_BT * np.nan_to_num(labels_BT)).sum(axis=0) / weights_BT.sum(axis=0)
    least_T = 0.5 / np.maximum(num_known_T, 1)
    rates_T = np.clip(rates_T, least_T, 1 - least_T)
    logits_T: Floats = np.log(rates_T / (1 - rates_T)).astype(np.float32)
    return logits_T


def weighted_loss(logits_BT: Tensor, targets_BT: Floats, weights_BT: Floats) -> Tensor:
    """Return the mean binary cross-entropy against targets in [0, 1]; unknown targets (NaN) count as no loss.

    The mean is over B x T, known or not, so that a minibatch with few known targets does not pull harder at them.
    """
    known_BT = ~np.isnan(targets_BT)
    targets = torch.from_numpy(np.where(known_BT, targets_BT, np.float32(0)))
    weights = torch.from_numpy(np.where(known_BT, weights_BT, np.float32(0)))
    return functional.binary_cross_entropy_with_logits(logits_BT, targets, weights)
