"""DLRM: dot products of all pairs of features, below a top tower.

A field is a sparse feature, with its pooled embedding, or all dense features together, with the bottom tower's output.
As it serves, the dot products of a user's own fields, and what the first layer makes of these, are computed once.

Legend: B examples, N items, F fields (U of the user, R the rest), K numbers of each, P pairs,
I inputs of the top tower, X columns of x0 (as it serves, those of the user), Y those of the items (the bottom tower's
among them), H hidden units, T tasks.

Source: DLRM (arXiv:1906.00091). Deviations: the bottom tower's last layer is added to the configured ones, so that it
always has the tables' dim; the last of the top layers is the head, one for each task.
"""

import torch
from torch import Tensor, nn

from exfm.models.config import NetworkConfig, Precision
from exfm.models.interactions import trunk
from exfm.models.interactions.served_layers import ServedTower
from exfm.models.interactions.trunk import Served, embedding_columns, num_outputs, tower
from exfm.schema import Schema


class Trunk(trunk.Trunk):
    """A tower over dot products and the bottom tower's outputs."""

    def __init__(self, schema: Schema, config: NetworkConfig) -> None:
        super().__init__()
        num_dense = len(schema.dense)
        self.dim = schema.tables[0].dim
        self.bottom = tower(num_dense, (*config.bottom_units, self.dim))
        self.num_bottom = num_outputs(self.bottom, num_inputs=num_dense)
        num_fields = (embedding_columns(schema) + self.num_bottom) // self.dim
        num_inputs = num_pairs(num_fields) + self.num_bottom
        self.top = tower(num_inputs, config.top_units)
        self.num_units = num_outputs(self.top, num_inputs=num_inputs)

    def interact(self, x0_BX: Tensor) -> Tensor:
        """Return the tower's outputs; shape [B, H]."""
        inputs_BI = tower_inputs(x0_BX.new_empty(0), x0_BX, dim=self.dim, num_bottom=self.num_bottom)
        hidden_BH: Tensor = self.top(inputs_BI)
        return hidden_BH

    def served(self, head: nn.Linear, *, num_user_columns: int, precision: Precision) -> Served:
        """Return dot products and tower with a head over them."""
        return _Served(self, head, num_user_columns=num_user_columns, precision=precision)


def tower_inputs(user_X: Tensor, item_NY: Tensor, *, dim: int, num_bottom: int) -> Tensor:
    """Return the tower's inputs, [N, I], but for the products of the user's own pairs, which come before them.

    They are dot products, then the bottom tower's outputs.
    """
    rest_NRK = item_NY.reshape(len(item_NY), item_NY.shape[1] // dim, dim)
    bottom_NK = item_NY[:, item_NY.shape[1] - num_bottom :]
    return torch.cat([dot_products(user_X.view(-1, dim), rest_NRK), bottom_NK], dim=1)


def num_pairs(num_fields: int) -> int:
    """Return the number of pairs of different fields."""
    return num_fields * (num_fields - 1) // 2


def dot_products(user_UK: Tensor, rest_NRK: Tensor) -> Tensor:
    """Return the dot products of each pair of fields that are not both the user's; [N, P].

    A field's pairs with those before it come together, field by field; the user's fields come before the rest.
    """
    num_user, num_rest = len(user_UK), rest_NRK.shape[1]
    with_user_NRU = rest_NRK @ user_UK.T
    with_rest_NRR = rest_NRK @ rest_NRK.transpose(1, 2)
    of_field, with_field = torch.tril_indices(num_rest, num_user + num_rest, num_user - 1, device=rest_NRK.device)
    return torch.cat([with_user_NRU, with_rest_NRR], dim=2)[:, of_field, with_field]


class _Served(Served):
    """A tower that reads the products of the user's own pairs once."""

    def __init__(self, trunk: Trunk, head: nn.Linear, *, num_user_columns: int, precision: Precision) -> None:
        self._dim, self._num_bottom = trunk.dim, trunk.num_bottom
        self._num_user_pairs = num_pairs(num_user_columns // trunk.dim)
        self._tower = ServedTower(
            trunk.top,
            head.weight.detach(),
            head.bias.detach(),
            num_user_columns=self._num_user_pairs,
            precision=precision,
        )

    def logits(self, user_X: Tensor, item_NY: Tensor) -> Tensor:
        user_1UK = user_X.view(1, -1, self._dim)
        user_products_P = dot_products(user_X.new_empty(0, self._dim), user_1UK)[0]
        inputs_NI = tower_inputs(user_X, item_NY, dim=self._dim, num_bottom=self._num_bottom)
        return self._tower(inputs_NI, user_products_P)

    def pays(self, num_items: int) -> bool:
        return num_items > 1 and self._num_user_pairs > 0  # what it does for a user, the network does for each item
