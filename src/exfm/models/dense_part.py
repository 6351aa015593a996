"""The dense part of a ranking model: from embeddings to scores, of several requests together.

A layer is one call for all of them. What stays each request's own are its bottom tower, its embeddings' way to a GPU,
and where its user is met once, a small product in each layer that reads crosses. Each is computed as it would be alone,
but for the rounding of sums in another order.

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
from exfm.models.served_network import ServedNetwork
from exfm.schema import Net, Schema

Scores = npt.NDArray[np.float32]
"""Probabilities, [N, T]."""


@dataclass(frozen=True)
class Unscored:
    """A request of which all is there but the scores; its tensors lie where the network does."""

    pooled: Mapping[Net, Sequence[Tensor]]
    """Embeddings of users, [U, E], and of items, [N, E], in pieces of columns that go side by side."""
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
        """Return the items' columns of x0, the bottom tower's behind them, [N, Y]: all of them are copied."""
        return side_by_side([*self.pooled["item"], self.bottom_NY])


class DensePart:
    """A dense network on its device."""

    def __init__(
        self, network: DenseNetwork, schema: Schema, *, device: torch.device = CPU, precision: Precision = "fp32"
    ) -> None:
        """Take a network of a model with this schema to a device, to multiply there in this precision.

        Raises: ConfigError if it cannot.
        """
        self._device = device
        network = network.to(device).eval()
        num_user_columns = sum(schema.table(feature.table).dim for feature in schema.sparse_of("user"))
        self._bottom = network.trunk.bottom
        self._as_trained = ServedNetwork(network, num_user_columns=0, precision=precision)
        self._one_user = (
            ServedNetwork(network, num_user_columns=num_user_columns, precision=precision)
            if num_user_columns
            else self._as_trained  # which never pays: there is nothing of a user's to save
        )

    @torch.inference_mode()
    def bottom(self, batches: NetBatches) -> Tensor:
        """Return what the bottom tower makes of the dense features, [N, Y]."""
        bottom_NY: Tensor = self._bottom(dense_inputs(batches).to(self._device))
        return bottom_NY

    @torch.inference_mode()
    def scores(self, requests: Sequence[Unscored]) -> list[Scores]:
        """Return the scores of each request, in order.

        Raises: RequestError if a layer's inputs are not all numbers, of which int8 has no scale.
        """
        scores = [np.empty(0, dtype=np.float32)] * len(requests)
        meets_once = [self.meets_once(request) for request in requests]
        for logits_of, is_chosen in ((self._meeting_once, True), (self._meeting_each, False)):
            places = [place for place, once in enumerate(meets_once) if once is is_chosen]
            if not places:
                continue
            chosen = [requests[place] for place in places]
            scores_NT: Scores = logits_of(chosen).sigmoid_().cpu().numpy()
            ends = np.cumsum([request.num_items for request in chosen])
            for place, own_NT in zip(places, np.split(scores_NT, ends[:-1]), strict=True):
                scores[place] = own_NT
        return scores

    def meets_once(self, request: Unscored) -> bool:
        """Return whether a request's user is met once for all of its items."""
        return len(request.num_candidates) == 1 and self._one_user.pays(request.num_items)

    def _meeting_once(self, requests: Sequence[Unscored]) -> Tensor:
        return self._one_user.logits(
            _stacked([request.user_columns() for request in requests]),
            _stacked([request.item_columns() for request in requests]),
            num_items=[request.num_items for request in requests],
        )

    def _meeting_each(self, requests: Sequence[Unscored]) -> Tensor:
        user_UX = _stacked([request.user_columns() for request in requests])
        item_NY = _stacked([request.item_columns() for request in requests])
        num_candidates = torch.from_numpy(np.concatenate([request.num_candidates for request in requests]))
        x0_NX = expand_users({"user": user_UX, "item": item_NY}, num_candidates.to(self._device))
        return self._as_trained.logits(x0_NX.new_empty((1, 0)), x0_NX, num_items=[len(x0_NX)])


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Return rows below each other; those of one request are not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
