"""The dense network as it serves: in a precision of its own, and with what depends on a user alone computed once.

All items of a user share their user's embeddings u. Cross layers multiply them by s + Σ up z, where s is the same
for all requests and z of low rank; so a layer that reads them, as `down` and the serving head do, gives W (u s) and
(W diag(u) up) z: a vector and a small matrix of the user. The logits are the network's, but for the rounding of sums in
another order.

Legend: N items, X user columns and Y item columns of x0 (the bottom tower's among them), R ranks of a cross
layer, K of those passed, side by side, O outputs of a layer, I its inputs, T tasks.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from exfm.models.config import Precision
from exfm.models.linear import Linear, linear
from exfm.models.network import DenseNetwork, LowRankCrossLayer


class ServedNetwork:
    """A dense network's parameters, split into those that meet a user and those that meet that user's items.

    The last layers' own weights are float32 whatever the precision.
    """

    def __init__(self, network: DenseNetwork, *, num_user_columns: int, precision: Precision = "fp32") -> None:
        """Give the logits of `network`; the first columns of its x0, or none, are the user's.

        Raises: ConfigError if this machine cannot multiply so.
        """
        trunk, head = network.trunk, network.serving_head
        crosses = [_low_rank(cross) for cross in trunk.crosses]
        ones_X = head.weight.new_ones(num_user_columns)
        scale_X = ones_X
        self._downs, self._ups, self._user_ups = [], [], []
        for cross in crosses:
            self._downs.append(_Reader(cross.down, scale_X, precision))
            self._user_ups.append(linear(cross.up.weight.detach()[:num_user_columns].T, precision))
            self._ups.append(_Layer(_rows_from(cross.up, num_user_columns), precision))
            scale_X = scale_X + cross.up.bias.detach()[:num_user_columns]
        of_crosses, of_top = _split(head, trunk.width)
        self._head = _Reader(of_crosses, scale_X, "fp32")
        layers = [*(layer for layer in trunk.top if isinstance(layer, nn.Linear)), of_top]
        precisions: list[Precision] = [precision] * (len(layers) - 1) + ["fp32"]
        self._first = _Reader(layers[0], ones_X, precisions[0])
        self._rest = [_Layer(*one) for one in zip(layers[1:], precisions[1:], strict=True)]
        self._dtype = torch.bfloat16 if precision == "bf16" else head.weight.dtype
        self._saved_per_item, self._once = self._multiplications(num_user_columns)

    def logits(self, user_X: Tensor, item_NY: Tensor) -> Tensor:
        """Return the logits of a user's items; shape [N, T]."""
        cross_NY = item_NY = item_NY.to(self._dtype)
        passed: list[tuple[Tensor, Linear]] = []
        for down, up, user_up in zip(self._downs, self._ups, self._user_ups, strict=True):
            ranks_NR = down.read(cross_NY, user_X, passed)
            cross_NY = torch.addcmul(cross_NY, item_NY, up(ranks_NR))
            passed.append((ranks_NR, user_up))
        deep = self._first.read(item_NY, user_X, [])
        for layer in self._rest:
            deep = layer(deep.relu_())
        return deep.add_(self._head.read(cross_NY, user_X, passed))

    def pays(self, num_items: int) -> bool:
        """Return whether this takes fewer multiplications than the network itself for so many items of a user."""
        return num_items * self._saved_per_item > self._once

    def _multiplications(self, num_user_columns: int) -> tuple[int, int]:
        """Return how many fewer an item takes than in the network, and how many the user takes once."""
        readers = [*self._downs, self._head]
        ranks_read = list(accumulate((down.num_outputs for down in self._downs), initial=0))
        mixed = sum(reader.num_outputs * num_read for reader, num_read in zip(readers, ranks_read, strict=True))
        num_outputs = sum(reader.num_outputs for reader in (*readers, self._first))
        num_ranks = ranks_read[-1]
        return num_user_columns * (num_outputs + num_ranks) - mixed, num_user_columns * (num_outputs + mixed)


class _Layer:
    """A linear layer with its bias, if it has one."""

    def __init__(self, layer: nn.Linear, precision: Precision) -> None:
        self._linear = linear(layer.weight.detach(), precision)
        self._bias_O = None if layer.bias is None else layer.bias.detach()

    def __call__(self, inputs_NI: Tensor) -> Tensor:
        return self._linear(inputs_NI.to(self._linear.dtype), self._bias_O)


class _Reader:
    """A linear layer over all columns of a cross, or of x0."""

    def __init__(self, layer: nn.Linear, scale_X: Tensor, precision: Precision) -> None:
        """Take the layer apart; `scale_X` is what the user's columns are multiplied by, whoever the user is."""
        weight_OI, num_user = layer.weight.detach(), len(scale_X)
        self._item = linear(weight_OI[:, num_user:], precision)
        self._scaled_OX = weight_OI[:, :num_user] * scale_X
        self._user_OX = weight_OI[:, :num_user].clone().to(self._item.dtype)  # no view: the weights need not stay
        self._bias_O = weight_OI.new_zeros(len(weight_OI)) if layer.bias is None else layer.bias.detach()
        self.num_outputs = len(weight_OI)

    def read(self, cross_NY: Tensor, user_X: Tensor, passed: Sequence[tuple[Tensor, Linear]]) -> Tensor:
        """Return the layer's outputs, [N, O]; of each cross layer passed, its ranks, [N, R], and user's ups, [R, X]."""
        dtype = self._item.dtype
        read_NO = self._item(cross_NY.to(dtype), torch.addmv(self._bias_O, self._scaled_OX, user_X))
        if passed and len(user_X):
            met_OX = self._user_OX * user_X.to(dtype)
            for ranks_NR, up in passed:
                mixing_OR = up(met_OX.to(up.dtype))
                read_NO.addmm_(ranks_NR.to(dtype), mixing_OR.T.to(dtype))
        return read_NO


def _low_rank(cross: nn.Module) -> LowRankCrossLayer:
    assert isinstance(cross, LowRankCrossLayer), "a trunk's crosses are of low rank"
    return cross


def _rows_from(layer: nn.Linear, first: int) -> nn.Linear:
    """Return a layer's outputs from one on as a layer."""
    rows = nn.Linear(layer.in_features, layer.out_features - first, device="meta")
    rows.weight, rows.bias = nn.Parameter(layer.weight.detach()[first:]), nn.Parameter(layer.bias.detach()[first:])
    return rows


def _split(layer: nn.Linear, num_columns: int) -> tuple[nn.Linear, nn.Linear]:
    """Return a layer as two, over the first columns and over the others, whose outputs add up."""
    weight = layer.weight.detach()
    # On no device, so that no first values are drawn: others go on with torch's random numbers.
    first = nn.Linear(num_columns, len(weight), device="meta")
    other = nn.Linear(weight.shape[1] - num_columns, len(weight), bias=False, device="meta")
    first.weight, first.bias = nn.Parameter(weight[:, :num_columns]), nn.Parameter(layer.bias.detach())
    other.weight = nn.Parameter(weight[:, num_columns:])
    return first, other
