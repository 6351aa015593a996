"""The dense network of a ranking model: everything but its embedding tables.

Legend: B examples, U users, N items, D dense features of both nets, E pooled embeddings of both nets, H hidden units,
T tasks. In training every example has a user and an item of its own, so U = N = B.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from exfm.features.batch import NetBatches
from exfm.models.config import NetworkConfig
from exfm.schema import NETS, Net, Schema


class LowRankCrossLayer(nn.Module):
    """x0 * (U V x + b) + x: one more order of explicit feature crosses.

    Source: DCN V2 (arXiv:2008.13535), the low-rank cross layer.
    """

    def __init__(self, width: int, *, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)

    def forward(self, x0_BX: Tensor, x_BX: Tensor) -> Tensor:
        """Return the next crosses; shape [B, X] like both inputs."""
        return torch.addcmul(x_BX, x0_BX, self.up(self.down(x_BX)))


class Trunk(nn.Module):
    """Pooled embeddings and dense features to the hidden state that all heads share.

    Crosses and a deep tower stand side by side (DCN V2's parallel structure, arXiv:2008.13535).
    """

    def __init__(self, schema: Schema, config: NetworkConfig) -> None:
        super().__init__()
        num_dense = len(schema.dense)
        self.bottom = _tower(num_dense, config.bottom_units)
        width = sum(schema.table(feature.table).dim for feature in schema.sparse)
        width += config.bottom_units[-1] if num_dense and config.bottom_units else num_dense
        self.width = width
        self.crosses = nn.ModuleList(
            LowRankCrossLayer(width, rank=config.cross_rank) for _ in range(config.num_cross_layers)
        )
        self.top = _tower(width, config.top_units)
        self.num_units = width + (config.top_units[-1] if config.top_units else width)

    def forward(self, pooled_BE: Tensor, dense_BD: Tensor) -> Tensor:
        """Return the hidden state; shape [B, H]."""
        return self.mix(pooled_BE, self.bottom(dense_BD))

    def mix(self, pooled_BE: Tensor, bottom_BY: Tensor) -> Tensor:
        """Return the hidden state, [B, H], given the bottom tower's outputs, [B, Y]."""
        x0_BX = torch.cat([pooled_BE, bottom_BY], dim=1) if bottom_BY.shape[1] else pooled_BE
        x_BX = x0_BX
        for cross in self.crosses:
            x_BX = cross(x0_BX, x_BX)
        return torch.cat([x_BX, self.top(x0_BX)], dim=1)


class DenseNetwork(nn.Module):
    """Trunk and serving head: what a ranker holds.

    The state dict's names are the names in a bundle's ranker/dense.safetensors.
    """

    def __init__(self, schema: Schema, config: NetworkConfig) -> None:
        super().__init__()
        self.trunk = Trunk(schema, config)
        self.serving_head = nn.Linear(self.trunk.num_units, len(schema.labels))

    def forward(self, pooled_BE: Tensor, dense_BD: Tensor) -> Tensor:
        """Return a logit for each example and task; shape [B, T]."""
        logits_BT: Tensor = self.serving_head(self.trunk(pooled_BE, dense_BD))
        return logits_BT


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


def _tower(num_inputs: int, units: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    if num_inputs:
        for num_outputs in units:
            layers += [nn.Linear(num_inputs, num_outputs), nn.ReLU()]
            num_inputs = num_outputs
    return nn.Sequential(*layers)
