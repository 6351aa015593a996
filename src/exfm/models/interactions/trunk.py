"""What an interaction has to give: a trunk to train, and the same trunk with a head as it serves.

Legend: B examples, D dense features of both nets, E pooled embeddings of both nets, Y units of the bottom tower,
X columns of x0 (E and Y side by side, the user's embeddings first), H hidden units, N items of one user, T tasks.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from exfm.models.config import Precision
from exfm.schema import Schema


class Trunk(nn.Module, ABC):
    """Pooled embeddings and dense features to the hidden state that all heads share."""

    num_units: int
    """Hidden units, H."""
    bottom: nn.Sequential
    """Layers over the dense features, which need no embedding: a ranker computes them while it waits for shards."""

    def forward(self, pooled_BE: Tensor, dense_BD: Tensor) -> Tensor:
        """Return the hidden state; shape [B, H]."""
        return self.mix(pooled_BE, self.bottom(dense_BD))

    def mix(self, pooled_BE: Tensor, bottom_BY: Tensor) -> Tensor:
        """Return the hidden state, [B, H], given the bottom tower's outputs."""
        return self.interact(torch.cat([pooled_BE, bottom_BY], dim=1) if bottom_BY.shape[1] else pooled_BE)

    @abstractmethod
    def interact(self, x0_BX: Tensor) -> Tensor:
        """Return the hidden state; shape [B, H]."""

    @abstractmethod
    def served(self, head: nn.Linear, *, num_user_columns: int, precision: Precision) -> "Served":
        """Return this trunk with a head over it, as a ranker computes them.

        The first columns of x0, or none, are those of the user's embeddings.
        """


class Served(ABC):
    """A trunk and a head as they serve: in a precision of the settings, with the user's part computed once.

    The logits are the trained network's, but for rounding. The head's own weights are float32 whatever the precision.
    """

    @abstractmethod
    def logits(self, user_X: Tensor, item_NX: Tensor) -> Tensor:
        """Return the logits of a user's items, [N, T], given the user's columns of x0 and the items' columns.

        The bottom tower's columns are the last ones of the items'.
        """

    @abstractmethod
    def pays(self, num_items: int) -> bool:
        """Return whether this takes fewer multiplications than the network itself for this many items of a user."""


def tower(num_inputs: int, units: tuple[int, ...]) -> nn.Sequential:
    """Return layers of these units, each with a ReLU behind it; none where there are no inputs."""
    layers: list[nn.Module] = []
    if num_inputs:
        for num_outputs in units:
            layers += [nn.Linear(num_inputs, num_outputs), nn.ReLU()]
            num_inputs = num_outputs
    return nn.Sequential(*layers)


def embedding_columns(schema: Schema) -> int:
    """Return E: the dims of all features' pooled embeddings side by side."""
    return sum(schema.table(feature.table).dim for feature in schema.sparse)


def num_outputs(layers: nn.Sequential, *, num_inputs: int) -> int:
    """Return how many numbers a tower makes of so many."""
    return next((layer.out_features for layer in reversed(layers) if isinstance(layer, nn.Linear)), num_inputs)
