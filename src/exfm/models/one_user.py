"""The dense network for users of many candidates: what depends on the user alone is computed once, not per item.

All items of a user share their user's embeddings u. Cross layers multiply them by s + Σ up z, where s is the same
for all requests and z of low rank; so a layer that reads them, as `down` and the serving head do, gives W (u s) and
(W diag(u) up) z: a vector and a small matrix of the user. The logits are the network's, but for the rounding of sums in
another order.

Legend: U users, N items, X user columns and Y item columns of x0 (the bottom tower's among them), R ranks of a cross
layer, K of those passed, side by side, O outputs of a layer, I its inputs, T tasks.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

from exfm.models.network import DenseNetwork, LowRankCrossLayer


class OneUserNetwork:
    """A dense network's parameters, split into those that meet a user and those that meet that user's items."""

    def __init__(self, network: DenseNetwork, *, num_user_columns: int) -> None:
        """Give the logits of `network`; the first columns of its x0 are the user's."""
        trunk, head = network.trunk, network.serving_head
        crosses = [_low_rank(cross) for cross in trunk.crosses]
        ones_X = head.weight.new_ones(num_user_columns)
        scale_X = ones_X
        self._downs, self._ups = [], []
        for cross in crosses:
            self._downs.append(_Reader(cross.down, scale_X))
            self._ups.append((cross.up.weight.detach()[num_user_columns:], cross.up.bias.detach()[num_user_columns:]))
            scale_X = scale_X + cross.up.bias.detach()[:num_user_columns]
        user_ups = [cross.up.weight.detach()[:num_user_columns] for cross in crosses]
        self._user_up_XK = torch.cat([ones_X.new_empty((num_user_columns, 0)), *user_ups], dim=1)
        of_crosses, of_top = _split(head, trunk.width)
        self._head = _Reader(of_crosses, scale_X)
        first, *rest = (*trunk.top, of_top)
        assert isinstance(first, nn.Linear), "towers begin with a linear layer"
        self._first = _Reader(first, ones_X)
        self._rest = nn.Sequential(*rest)
        self._saved_per_item, self._once = self._multiplications(num_user_columns)

    def logits(self, user_UX: Tensor, item_NY: Tensor, *, num_items: Sequence[int]) -> Tensor:
        """Return the logits of users' items, of each so many in order; shape [N, T]."""
        users = _Users(user_UX, num_items)
        cross_NY, ranks_NK = item_NY, item_NY.new_empty((len(item_NY), 0))
        for down, (up_YR, bias_Y) in zip(self._downs, self._ups, strict=True):
            ranks_NR = down.read(cross_NY, users, ranks_NK, self._user_up_XK)
            cross_NY = torch.addcmul(cross_NY, item_NY, functional.linear(ranks_NR, up_YR, bias_Y))
            ranks_NK = torch.cat([ranks_NK, ranks_NR], dim=1)
        deep_NT: Tensor = self._rest(self._first.read(item_NY, users, ranks_NK[:, :0], self._user_up_XK))
        return deep_NT.add_(self._head.read(cross_NY, users, ranks_NK, self._user_up_XK))

    def pays(self, num_items: int) -> bool:
        """Return whether this takes fewer multiplications than the network itself for so many items of a user."""
        return num_items * self._saved_per_item > self._once

    def _multiplications(self, num_user_columns: int) -> tuple[int, int]:
        """Return how many fewer an item takes than in the network, and how many the user takes once."""
        readers = [*self._downs, self._head]
        ranks_read = accumulate((down.num_outputs for down in self._downs), initial=0)
        mixed = sum(reader.num_outputs * num_read for reader, num_read in zip(readers, ranks_read, strict=True))
        num_outputs = sum(reader.num_outputs for reader in (*readers, self._first))
        num_ranks = self._user_up_XK.shape[1]
        return num_user_columns * (num_outputs + num_ranks) - mixed, num_user_columns * (num_outputs + mixed)


class _Users:
    """Users, and which items are whose."""

    def __init__(self, user_UX: Tensor, num_items: Sequence[int]) -> None:
        self.user_UX = user_UX
        self.each = user_UX.unbind()
        self._num_items = list(num_items)
        self._num_items_U = torch.tensor(self._num_items, device=user_UX.device) if len(self.each) > 1 else None

    def of_items(self, of_users_UO: Tensor) -> Tensor:
        """Return for each item what its user has."""
        assert self._num_items_U is not None, "there are several"
        return of_users_UO.repeat_interleave(self._num_items_U, dim=0, output_size=sum(self._num_items))

    def rows(self, of_items: Tensor) -> Sequence[Tensor]:
        """Return each user's rows, without copying them."""
        return (of_items,) if len(self.each) == 1 else torch.split(of_items, self._num_items)


class _Reader:
    """A linear layer over all columns of a cross, or of x0."""

    def __init__(self, layer: nn.Linear, scale_X: Tensor) -> None:
        """Take the layer apart; `scale_X` is what the user's columns are multiplied by, whoever the user is."""
        weight_OI, num_user = layer.weight.detach(), len(scale_X)
        self._user_OX = weight_OI[:, :num_user].contiguous()
        self._scaled_OX = self._user_OX * scale_X
        self._item_OY = weight_OI[:, num_user:].contiguous()
        self._bias_O = weight_OI.new_zeros(len(weight_OI)) if layer.bias is None else layer.bias.detach()
        self.num_outputs = len(weight_OI)

    def read(self, cross_NY: Tensor, users: _Users, ranks_NK: Tensor, user_up_XK: Tensor) -> Tensor:
        """Return the layer's outputs, [N, O]; `ranks_NK` are those of the layers whose crosses it reads."""
        if len(users.each) == 1:  # the usual request: no copy of what the user has for each item
            read_NO = functional.linear(
                cross_NY, self._item_OY, torch.addmv(self._bias_O, self._scaled_OX, users.each[0])
            )
        else:
            user_UO = torch.addmm(self._bias_O, users.user_UX, self._scaled_OX.T)
            read_NO = torch.addmm(users.of_items(user_UO), cross_NY, self._item_OY.T)
        num_ranks = ranks_NK.shape[1]
        if num_ranks:
            up_XK = user_up_XK[:, :num_ranks]
            for user_X, own_NO, own_NK in zip(users.each, users.rows(read_NO), users.rows(ranks_NK), strict=True):
                mixing_OK = (self._user_OX * user_X) @ up_XK
                own_NO.addmm_(own_NK, mixing_OK.T)
        return read_NO


def _low_rank(cross: nn.Module) -> LowRankCrossLayer:
    assert isinstance(cross, LowRankCrossLayer), "a trunk's crosses are of low rank"
    return cross


def _split(layer: nn.Linear, num_columns: int) -> tuple[nn.Linear, nn.Linear]:
    """Return a layer as two, over the first columns and over the others, whose outputs add up."""
    weight = layer.weight.detach()
    # On no device, so that no first values are drawn: others go on with torch's random numbers.
    first = nn.Linear(num_columns, len(weight), device="meta")
    other = nn.Linear(weight.shape[1] - num_columns, len(weight), bias=False, device="meta")
    first.weight, first.bias = nn.Parameter(weight[:, :num_columns]), nn.Parameter(layer.bias.detach())
    other.weight = nn.Parameter(weight[:, num_columns:])
    return first, other
