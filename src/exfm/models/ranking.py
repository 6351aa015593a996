"""A whole ranking model: embedding tables and dense network, as it is trained and as it scores offline.

Legend: B examples, H hidden units, T tasks.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from exfm.features.batch import NetBatches
from exfm.models.config import ModelConfig
from exfm.models.network import DenseNetwork, dense_inputs
from exfm.models.pooling import with_means
from exfm.models.tables import EmbeddingTables
from exfm.schema import NETS, Schema

SCORING_ROWS = 8192
"""Examples scored at a time: bounds memory without costing time."""


class RankingModel(nn.Module):
    """Embedding tables, trunk and serving head."""

    def __init__(self, schema: Schema, config: ModelConfig) -> None:
        """Make a new model.

        Raises: ConfigError if the schema's tables do not suit the network's interaction.
        """
        super().__init__()
        config.network.require_dims(schema)
        self.schema = schema.widen(config.dim_factor)
        self.config = config
        torch.manual_seed(config.seed)
        self.network = DenseNetwork(self.schema, config.network)
        self.tables = EmbeddingTables(self.schema, config.tables, seed=config.seed)
        self._net_dims = [
            sum(self.schema.table(feature.table).dim for feature in self.schema.sparse_of(net)) for net in NETS
        ]

    def hidden(self, batches: NetBatches) -> Tensor:
        """Return the trunk's state for examples of one user and one item each; [B, H]."""
        by_net = torch.split(self.tables(batches), self._net_dims, dim=1)
        pooled = [
            with_means(pooled_BE, batches.of(net), self.schema.sparse_of(net), self.schema)
            for net, pooled_BE in zip(NETS, by_net, strict=True)
        ]
        hidden_BH: Tensor = self.network.trunk(torch.cat(pooled, dim=1), dense_inputs(batches))
        return hidden_BH

    def serve(self, hidden_BH: Tensor) -> Tensor:
        """Return the serving head's logits; [B, T]."""
        logits_BT: Tensor = self.network.serving_head(hidden_BH)
        return logits_BT

    def probabilities(self, batches: NetBatches) -> npt.NDArray[np.float32]:
        """Return the serving head's probability of each task; [B, T]."""
        return torch.from_numpy(self.logits(batches)).sigmoid().numpy()

    @torch.no_grad()  # not inference_mode: FBGEMM has its lookup on the autograd key only
    def logits(self, batches: NetBatches) -> npt.NDArray[np.float32]:
        """Return the serving head's logits; [B, T]."""
        num_rows = batches.item.num_rows
        parts = [np.empty((0, len(self.schema.labels)), dtype=np.float32)]
        for start in range(0, num_rows, SCORING_ROWS):
            part = batches.rows(start, min(start + SCORING_ROWS, num_rows))
            parts.append(self.serve(self.hidden(part)).numpy())
        return np.concatenate(parts)

    def num_parameters(self) -> int:
        """Return how many numbers serving needs: tables, trunk and serving head."""
        tables = sum(weight.numel() for weight in self.tables.weights().values())
        return tables + sum(parameter.numel() for parameter in self.network.parameters())
