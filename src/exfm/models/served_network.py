"""The dense network as it serves: in a precision of the settings, with the user's part computed once.

All items of a user share their user's embeddings u. Cross layers multiply them by s + Σ up z, where s is the same
for all requests and z of low rank; so a layer that reads them, as `down` and the serving head do, gives W (u s) and
(W diag(u) up) z: a vector and a small matrix of the user. The logits are the network's, except for rounding, because
sums have another order.

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
    """A dense network's parameters, split into those for the user's columns and those for the items' columns.

    The last layers always have float32 weights.
    """

    def __init__(self, network: DenseNetwork, *, num_user_columns: int, precision: Precision = "fp32") -> None:
        """Compute the logits of `network`; the first columns of its x0, or none, are the user's."""
        trunk, head = network.trunk, network.serving_head
        ones_X = head.weight.new_ones(num_user_columns)
        scale_X = ones_X
        self._downs, self._ups, self._user_ups = [], [], []
        for cross in trunk.crosses:
            assert isinstance(cross, LowRankCrossLayer), "a trunk's crosses are of low rank"
            up_XR, bias_X = cross.up.weight.detach(), cross.up.bias.detach()
            self._downs.append(_Reader(cross.down.weight.detach(), None, scale_X, precision))
            self._user_ups.append(linear(up_XR[:num_user_columns].T, precision))
            self._ups.append(_Layer(up_XR[num_user_columns:], bias_X[num_user_columns:], precision))
            scale_X = scale_X + bias_X[:num_user_columns]
        head_TH = head.weight.detach()  # columns of the crosses, then of the top tower; their outputs are added
        self._head = _Reader(head_TH[:, : trunk.width], head.bias.detach(), scale_X, "fp32")
        tower = [layer for layer in trunk.top if isinstance(layer, nn.Linear)]
        layers: list[tuple[Tensor, Tensor | None, Precision]] = [
            *((layer.weight.detach(), layer.bias.detach(), precision) for layer in tower),
            (head_TH[:, trunk.width :], None, "fp32"),
        ]
        weight_OI, bias_O, first_precision = layers[0]
        self._first = _Reader(weight_OI, bias_O, ones_X, first_precision)
        self._rest = [_Layer(*layer) for layer in layers[1:]]
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
        """Return whether this takes fewer multiplications than the network itself for this many items of a user."""
        return num_items * self._saved_per_item > self._once

    def _multiplications(self, num_user_columns: int) -> tuple[int, int]:
        """Return the multiplications saved for each item, and those that a user takes once."""
        readers = [*self._downs, self._head]
        ranks_read = list(accumulate((down.num_outputs for down in self._downs), initial=0))
        mixed = sum(reader.num_outputs * num_read for reader, num_read in zip(readers, ranks_read, strict=True))
        num_outputs = sum(reader.num_outputs for reader in (*readers, self._first))
        num_ranks = ranks_read[-1]
        return num_user_columns * (num_outputs + num_ranks) - mixed, num_user_columns * (num_outputs + mixed)


class _Layer:
    """A linear layer with its bias, if it has one."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, precision: Precision) -> None:
        self._linear = linear(weight_OI, precision)
        self._bias_O = bias_O

    def __call__(self, inputs_NI: Tensor) -> Tensor:
        return self._linear(inputs_NI.to(self._linear.dtype), self._bias_O)


class _Reader:
    """A linear layer over all columns of a cross, or of x0."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, scale_X: Tensor, precision: Precision) -> None:
        """Take the layer apart; `scale_X` multiplies the user's columns, the same for all users."""
        num_user = len(scale_X)
        self._item = linear(weight_OI[:, num_user:], precision)
        self._scaled_OX = weight_OI[:, :num_user] * scale_X
        self._user_OX = weight_OI[:, :num_user].clone().to(self._item.dtype)  # no view: the weights need not stay
        self._bias_O = weight_OI.new_zeros(len(weight_OI)) if bias_O is None else bias_O
        self.num_outputs = len(weight_OI)

    def read(self, cross_NY: Tensor, user_X: Tensor, passed: Sequence[tuple[Tensor, Linear]]) -> Tensor:
        """Return the layer's outputs, [N, O].

        `passed` has each earlier cross layer's ranks [N, R], and its matrix for the user [R, X].
        """
        dtype = self._item.dtype
        read_NO = self._item(cross_NY.to(dtype), torch.addmv(self._bias_O, self._scaled_OX, user_X))
        if passed and len(user_X):
            met_OX = self._user_OX * user_X.to(dtype)
            for ranks_NR, up in passed:
                mixing_OR = up(met_OX.to(up.dtype))
                read_NO.addmm_(ranks_NR.to(dtype), mixing_OR.T.to(dtype))
        return read_NO
