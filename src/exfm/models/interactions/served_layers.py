"""Layers that served trunks are made of: a linear layer split into the user's columns and the items', and a tower.

Legend: N items, X user columns and Y item columns of a layer's inputs, O outputs, I all inputs, T tasks.
"""

import torch
from torch import Tensor, nn

from exfm.models.config import Precision
from exfm.models.linear import linear


class SplitLinear:
    """A linear layer over columns of a user, then columns of an item; those of the user are multiplied once."""

    def __init__(
        self, weight_OI: Tensor, bias_O: Tensor | None, *, num_user_columns: int, precision: Precision
    ) -> None:
        self._item = linear(weight_OI[:, num_user_columns:], precision)
        self._user_OX = weight_OI[:, :num_user_columns].clone()  # no view: the weights need not stay
        self._bias_O = weight_OI.new_zeros(len(weight_OI)) if bias_O is None else bias_O
        self.dtype = self._item.dtype
        self.num_outputs = len(weight_OI)

    def __call__(self, item_NY: Tensor, user_X: Tensor) -> Tensor:
        """Return the layer's outputs; [N, O]."""
        return self._item(item_NY.to(self.dtype), torch.addmv(self._bias_O, self._user_OX, user_X))


class Layer:
    """A linear layer with its bias, if it has one."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, precision: Precision) -> None:
        self._linear = linear(weight_OI, precision)
        self._bias_O = bias_O

    def __call__(self, inputs_NI: Tensor) -> Tensor:
        """Return the layer's outputs; [N, O]."""
        return self._linear(inputs_NI.to(self._linear.dtype), self._bias_O)


class ServedTower:
    """A tower and the part of a head over its outputs; the head's weights are float32 whatever the precision."""

    def __init__(
        self,
        top: nn.Sequential,
        head_TO: Tensor,
        bias_T: Tensor | None,
        *,
        num_user_columns: int,
        precision: Precision,
    ) -> None:
        hidden = [layer for layer in top if isinstance(layer, nn.Linear)]
        layers: list[tuple[Tensor, Tensor | None, Precision]] = [
            *((layer.weight.detach(), layer.bias.detach(), precision) for layer in hidden),
            (head_TO, bias_T, "fp32"),
        ]
        weight_OI, bias_O, first_precision = layers[0]
        self._first = SplitLinear(weight_OI, bias_O, num_user_columns=num_user_columns, precision=first_precision)
        self._rest = [Layer(*layer) for layer in layers[1:]]
        self.num_first_outputs = self._first.num_outputs

    def __call__(self, item_NY: Tensor, user_X: Tensor) -> Tensor:
        """Return what the tower adds to the logits; [N, T]."""
        deep = self._first(item_NY, user_X)
        for layer in self._rest:
            deep = layer(deep.relu_())
        return deep
