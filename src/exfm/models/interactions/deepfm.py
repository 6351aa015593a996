"""DeepFM: a factorization machine beside a deep tower, both over the same embeddings.

A field is a sparse feature, with its pooled embedding, or all dense features together, with the bottom tower's output.
As it serves, a user's fields are added up once.

Legend: B examples, N items, F fields, K numbers of each, X columns of x0 (as it serves, those of the user), Y those of
the items (the bottom tower's among them), H hidden units, T tasks.

Source: DeepFM (arXiv:1703.04247). Deviations: dense features are one field, made by the bottom tower, where the paper
has a vector for each; the first-order weight of a field is linear in its vector, so that no table of one number a row
is needed; each task's head weighs the second-order term number by number, where the paper adds them up for its one
task.
"""

import torch
from torch import Tensor, nn

from exfm.models.config import NetworkConfig, Precision
from exfm.models.interactions import trunk
from exfm.models.interactions.served_layers import Layer, ServedTower, SplitLinear
from exfm.models.interactions.trunk import Served, embedding_columns, num_outputs, tower
from exfm.schema import Schema


class Trunk(trunk.Trunk):
    """First-order terms, second-order terms and a deep tower side by side."""

    def __init__(self, schema: Schema, config: NetworkConfig) -> None:
        super().__init__()
        num_dense = len(schema.dense)
        self.dim = schema.tables[0].dim
        self.bottom = tower(num_dense, (*config.bottom_units, self.dim))
        self.width = embedding_columns(schema) + num_outputs(self.bottom, num_inputs=num_dense)
        self.top = tower(self.width, config.top_units)
        self.num_units = self.width + self.dim + num_outputs(self.top, num_inputs=self.width)

    def interact(self, x0_BX: Tensor) -> Tensor:
        """Return fields, products of their pairs and the tower's outputs; shape [B, H]."""
        products_BK = products_of_pairs(*sums(x0_BX, dim=self.dim))
        return torch.cat([x0_BX, products_BK, self.top(x0_BX)], dim=1)

    def served(self, head: nn.Linear, *, num_user_columns: int, precision: Precision) -> Served:
        """Return fields, products and tower with a head over them."""
        return _Served(self, head, num_user_columns=num_user_columns, precision=precision)


def sums(fields: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """Return the sum of fields that lie side by side, [..., F K], and of their squares; [..., K] each."""
    fields = fields.reshape(*fields.shape[:-1], fields.shape[-1] // dim, dim)
    return fields.sum(dim=-2), fields.square().sum(dim=-2)


def products_of_pairs(sum_BK: Tensor, squares_BK: Tensor) -> Tensor:
    """Return the products of all pairs of fields, added up for each of their numbers; [B, K]."""
    return (sum_BK.square() - squares_BK) / 2


class _Served(Served):
    """A trunk's parameters, split into those for the user's columns and those for the items' columns."""

    def __init__(self, trunk: Trunk, head: nn.Linear, *, num_user_columns: int, precision: Precision) -> None:
        self._dim = trunk.dim
        widths = [trunk.width, trunk.dim, trunk.num_units - trunk.width - trunk.dim]
        first_TX, second_TK, deep_TO = torch.split(head.weight.detach(), widths, dim=1)
        self._first_order = SplitLinear(
            first_TX, head.bias.detach(), num_user_columns=num_user_columns, precision="fp32"
        )
        self._second_order = Layer(second_TK, None, "fp32")
        self._tower = ServedTower(trunk.top, deep_TO, None, num_user_columns=num_user_columns, precision=precision)
        self._num_user_columns = num_user_columns

    def logits(self, user_X: Tensor, item_NY: Tensor) -> Tensor:
        user_K, user_squares_K = sums(user_X, dim=self._dim)
        item_NK, item_squares_NK = sums(item_NY, dim=self._dim)
        products_NK = products_of_pairs(user_K + item_NK, user_squares_K + item_squares_NK)
        logits_NT = self._tower(item_NY, user_X)
        return logits_NT.add_(self._first_order(item_NY, user_X)).add_(self._second_order(products_NK))

    def pays(self, num_items: int) -> bool:
        return num_items > 1 and self._num_user_columns > 0  # what it does for a user, the network does for each item
