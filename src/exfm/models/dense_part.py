"""The dense part of a ranking model: from a request's embeddings to its scores.

Legend: U users, N items, E pooled embeddings of a net, Y units of the bottom tower, T tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from exfm.features.batch import NetBatches
from exfm.models.config import Precision
from exfm.models.device import CPU
from exfm.models.network import DenseNetwork, dense_inputs, expand_users
from exfm.models.pooling import side_by_side
from exfm.schema import Net, Schema

Scores = npt.NDArray[np.float32]
"""Probabilities, [N, T]."""


@dataclass(frozen=True)
class Unscored:
    """Inputs of the dense layers for one request, on the network's device."""

    pooled: Mapping[Net, Sequence[Tensor]]
    """Embeddings of users [U, E] and items [N, E], as lists of adjacent column blocks."""
    bottom_NY: Tensor
    num_candidates: npt.NDArray[np.int64]
    """Items of each user, in order; [U]."""

    @property
    def num_items(self) -> int:
        """Return the number of rows of its scores."""
        return len(self.bottom_NY)

    def user_columns(self) -> Tensor:
        """Return the users' columns of x0, [U, X]."""
        return side_by_side(self.pooled["user"])

    def item_columns(self) -> Tensor:
        """Return a copy of the items' columns of x0, and after them the bottom tower's; [N, Y]."""
        return side_by_side([*self.pooled["item"], self.bottom_NY])


class DensePart:
    """A dense network on its device."""

    def __init__(
        self, network: DenseNetwork, schema: Schema, *, device: torch.device = CPU, precision: Precision = "fp32"
    ) -> None:
        """Load a network of a model with this schema onto a device, in this precision."""
        self._device = device
        network = network.to(device).eval()
        num_user_columns = sum(schema.table(feature.table).dim for feature in schema.sparse_of("user"))
        self._bottom = network.trunk.bottom
        self._as_trained = network.served(num_user_columns=0, precision=precision)
        self._one_user = (
            network.served(num_user_columns=num_user_columns, precision=precision)
            if num_user_columns
            else self._as_trained  # the user has no columns
        )

    @torch.inference_mode()
    def bottom(self, batches: NetBatches) -> Tensor:
        """Return the bottom tower's outputs, [N, Y]."""
        bottom_NY: Tensor = self._bottom(dense_inputs(batches).to(self._device))
        return bottom_NY

    @torch.inference_mode()
    def scores(self, request: Unscored) -> Scores:
        """Return the scores of a request.

        Raises: RequestError if a layer's inputs are not all numbers, of which int8 has no scale.
        """
        if self.is_user_computed_once(request):
            logits_NT = self._one_user.logits(request.user_columns()[0], request.item_columns())
        else:
            columns: dict[Net, Tensor] = {"user": request.user_columns(), "item": request.item_columns()}
            x0_NX = expand_users(columns, torch.from_numpy(request.num_candidates).to(self._device))
            logits_NT = self._as_trained.logits(x0_NX.new_empty(0), x0_NX)
        scores_NT: Scores = logits_NT.sigmoid_().cpu().numpy()
        return scores_NT

    def is_user_computed_once(self, request: Unscored) -> bool:
        """Return whether the user's part is computed once for all items of a request."""
        return len(request.num_candidates) == 1 and self._one_user.pays(request.num_items)
