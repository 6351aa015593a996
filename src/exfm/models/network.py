"""The dense network of a ranking model: everything but its embedding tables.

Legend: B examples, U users, N items, D dense features of both nets, E pooled embeddings of both nets, T tasks. In
training every example has a user and an item of its own, so U = N = B.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from exfm.features.batch import NetBatches
from exfm.models.config import NetworkConfig, Precision
from exfm.models.interactions import trunk_of
from exfm.models.interactions.trunk import Served
from exfm.schema import NETS, Net, Schema


class DenseNetwork(nn.Module):
    """Trunk and serving head: what a ranker holds.

    The state dict's names are the names in a bundle's ranker/dense.safetensors.
    """

    def __init__(self, schema: Schema, config: NetworkConfig) -> None:
        super().__init__()
        self.trunk = trunk_of(schema, config)
        self.serving_head = nn.Linear(self.trunk.num_units, len(schema.labels))

    def forward(self, pooled_BE: Tensor, dense_BD: Tensor) -> Tensor:
        """Return a logit for each example and task; shape [B, T]."""
        logits_BT: Tensor = self.serving_head(self.trunk(pooled_BE, dense_BD))
        return logits_BT

    def served(self, *, num_user_columns: int, precision: Precision = "fp32") -> Served:
        """Return this network as a ranker computes it; the first columns of x0, or none, are the user's.

        Raises: ConfigError if this machine cannot multiply in that precision.
        """
        return self.trunk.served(self.serving_head, num_user_columns=num_user_columns, precision=precision)


def expand_users(per_net: Mapping[Net, Tensor], num_candidates: Tensor) -> Tensor:
    """Return users' and items' columns side by side, one row an item.

    Shapes: user [U, X], item [N, Y], num_candidates int64 [U] with sum N; returns [N, X + Y], of which `item` is not
    copied if X is 0.
    """
    user_UX, item_NY = per_net["user"], per_net["item"]
    if user_UX.shape[1] == 0:
        return item_NY
    if len(user_UX) == 1:  # the usual request: no copy
        return torch.cat([user_UX.expand(len(item_NY), -1), item_NY], dim=1)
    if len(user_UX) == len(item_NY) and bool((num_candidates == 1).all()):
        return torch.cat([user_UX, item_NY], dim=1)
    return torch.cat([user_UX.repeat_interleave(num_candidates, dim=0), item_NY], dim=1)


def dense_inputs(batches: NetBatches) -> Tensor:
    """Return the normalised dense features of each item and its user; shape [N, D]."""
    per_net = {net: torch.from_numpy(batches.of(net).dense_BD) for net in NETS}
    return expand_users(per_net, torch.from_numpy(batches.num_candidates))
