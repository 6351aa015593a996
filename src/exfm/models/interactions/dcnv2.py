"""DCN V2: cross layers beside a deep tower.

As it serves, all items of a user share their user's embeddings u. Cross layers multiply them by s + Σ up z, where s is
the same for all requests and z of low rank; so a layer that reads them, as `down` and the head do, gives W (u s) and
(W diag(u) up) z: a vector and a small matrix of the user.

Legend: B examples, N items, X columns of x0 (as it serves, those of the user), Y those of the items (the bottom tower's
among them), R ranks of a cross layer, O outputs of a layer, I its inputs, H hidden units, T tasks.

Source: DCN V2 (arXiv:2008.13535), the parallel structure with low-rank cross layers. Deviation: no mixture of experts.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from exfm.models.config import NetworkConfig, Precision
from exfm.models.interactions import trunk
from exfm.models.interactions.served_layers import Layer, ServedTower, SplitLinear
from exfm.models.interactions.trunk import Served, embedding_columns, num_outputs, tower
from exfm.models.linear import Linear, linear
from exfm.schema import Schema


class _Cross(torch.autograd.Function):
    """x + x0 * y, of which torch's own gradient reads and writes memory twice as often."""

    @staticmethod
    def forward(ctx: Any, x_BX: Tensor, x0_BX: Tensor, y_BX: Tensor) -> Tensor:
        ctx.save_for_backward(x0_BX, y_BX)
        return torch.addcmul(x_BX, x0_BX, y_BX)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient_BX,) = gradients
        x0_BX, y_BX = ctx.saved_tensors
        return gradient_BX, gradient_BX * y_BX, gradient_BX * x0_BX


class LowRankCrossLayer(nn.Module):
    """x0 * (U V x + b) + x: one more order of explicit feature crosses."""

    def __init__(self, width: int, *, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)

    def forward(self, x0_BX: Tensor, x_BX: Tensor) -> Tensor:
        """Return the next crosses; shape [B, X] like both inputs."""
        crosses_BX: Tensor = _Cross.apply(x_BX, x0_BX, self.up(self.down(x_BX)))  # type: ignore[no-untyped-call]
        return crosses_BX


class Trunk(trunk.Trunk):
    """Crosses and a deep tower side by side."""

    def __init__(self, schema: Schema, config: NetworkConfig) -> None:
        super().__init__()
        num_dense = len(schema.dense)
        self.bottom = tower(num_dense, config.bottom_units)
        self.width = embedding_columns(schema) + num_outputs(self.bottom, num_inputs=num_dense)
        self.crosses = nn.ModuleList(
            LowRankCrossLayer(self.width, rank=config.cross_rank) for _ in range(config.num_cross_layers)
        )
        self.top = tower(self.width, config.top_units)
        self.num_units = self.width + num_outputs(self.top, num_inputs=self.width)

    def interact(self, x0_BX: Tensor) -> Tensor:
        """Return crosses and the tower's outputs; shape [B, H]."""
        x_BX = x0_BX
        for cross in self.crosses:
            x_BX = cross(x0_BX, x_BX)
        return torch.cat([x_BX, self.top(x0_BX)], dim=1)

    def served(self, head: nn.Linear, *, num_user_columns: int, precision: Precision) -> Served:
        """Return crosses and tower with a head over them."""
        return _Served(self, head, num_user_columns=num_user_columns, precision=precision)


class _Served(Served):
    """A trunk's parameters, split into those for the user's columns and those for the items' columns."""

    def __init__(self, trunk: Trunk, head: nn.Linear, *, num_user_columns: int, precision: Precision) -> None:
        ones_X = head.weight.new_ones(num_user_columns)
        scale_X = ones_X
        self._downs, self._ups, self._user_ups = [], [], []
        for cross in trunk.crosses:
            assert isinstance(cross, LowRankCrossLayer), "a trunk's crosses are of low rank"
            up_XR, bias_X = cross.up.weight.detach(), cross.up.bias.detach()
            self._downs.append(_CrossReader(cross.down.weight.detach(), None, scale_X, precision))
            self._user_ups.append(linear(up_XR[:num_user_columns].T, precision))
            self._ups.append(Layer(up_XR[num_user_columns:], bias_X[num_user_columns:], precision))
            scale_X = scale_X + bias_X[:num_user_columns]
        head_TH = head.weight.detach()  # over the crosses' columns, then the top tower's, whose outputs add up
        self._head = _CrossReader(head_TH[:, : trunk.width], head.bias.detach(), scale_X, "fp32")
        self._tower = ServedTower(
            trunk.top, head_TH[:, trunk.width :], None, num_user_columns=num_user_columns, precision=precision
        )
        self._dtype = torch.bfloat16 if precision == "bf16" else head.weight.dtype
        self._saved_per_item, self._once = self._multiplications(num_user_columns)

    def logits(self, user_X: Tensor, item_NY: Tensor) -> Tensor:
        cross_NY = item_NY = item_NY.to(self._dtype)
        passed: list[tuple[Tensor, Linear]] = []
        for down, up, user_up in zip(self._downs, self._ups, self._user_ups, strict=True):
            ranks_NR = down.read(cross_NY, user_X, passed)
            cross_NY = torch.addcmul(cross_NY, item_NY, up(ranks_NR))
            passed.append((ranks_NR, user_up))
        return self._tower(item_NY, user_X).add_(self._head.read(cross_NY, user_X, passed))

    def pays(self, num_items: int) -> bool:
        return num_items * self._saved_per_item > self._once

    def _multiplications(self, num_user_columns: int) -> tuple[int, int]:
        """Return the multiplications saved for each item, and those that a user takes once."""
        readers = [*self._downs, self._head]
        ranks_read = list(accumulate((down.num_outputs for down in self._downs), initial=0))
        mixed = sum(reader.num_outputs * num_read for reader, num_read in zip(readers, ranks_read, strict=True))
        num_outputs = sum(reader.num_outputs for reader in readers) + self._tower.num_first_outputs
        num_ranks = ranks_read[-1]
        return num_user_columns * (num_outputs + num_ranks) - mixed, num_user_columns * (num_outputs + mixed)


class _CrossReader:
    """A linear layer over all columns of a cross."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, scale_X: Tensor, precision: Precision) -> None:
        """Take the layer apart; `scale_X` multiplies the user's columns, the same for all users."""
        num_user = len(scale_X)
        user_OX, item_OY = weight_OI[:, :num_user], weight_OI[:, num_user:]
        scaled_OI = torch.cat([user_OX * scale_X, item_OY], dim=1)
        self._split = SplitLinear(scaled_OI, bias_O, num_user_columns=num_user, precision=precision)
        self._user_OX = user_OX.clone().to(self._split.dtype)
        self.num_outputs = len(weight_OI)

    def read(self, cross_NY: Tensor, user_X: Tensor, passed: Sequence[tuple[Tensor, Linear]]) -> Tensor:
        """Return the layer's outputs, [N, O]; of each cross layer passed, its ranks, [N, R], and user's ups, [R, X]."""
        read_NO = self._split(cross_NY, user_X)
        if passed and len(user_X):
            dtype = self._split.dtype
            met_OX = self._user_OX * user_X.to(dtype)
            for ranks_NR, up in passed:
                mixing_OR = up(met_OX.to(up.dtype))
                read_NO.addmm_(ranks_NR.to(dtype), mixing_OR.T.to(dtype))
        return read_NO
