"""A whole ranking model: embedding tables and dense network, as it is trained and as it scores offline.

Legend: B examples, H hidden units, T tasks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from exfm.features.batch import NetBatches
from exfm.models.config import ModelConfig
from exfm.models.network import DenseNetwork, dense_inputs
from exfm.models.tables import EmbeddingTables, Lookups
from exfm.schema import Schema

SCORING_ROWS = 8192
"""Examples scored at a time: bounds memory without costing time."""


@dataclass(frozen=True)
class Inputs:
    """What a model takes of examples of one user and one item each."""

    lookups: Lookups
    dense_BD: Tensor
    """Normalised dense features, the user's first."""

    def minibatches(self, size: int) -> Iterator["Inputs"]:
        """Yield the inputs of `size` examples at a time, in order, without a copy; the last may be fewer."""
        for start in range(0, len(self.dense_BD), size):
            yield Inputs(self.lookups.of(start, start + size), self.dense_BD[start : start + size])


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

    def inputs(self, batches: NetBatches) -> Inputs:
        """Return what the model takes of examples, whose keys become rows all at once."""
        return Inputs(lookups=self.tables.lookups(batches), dense_BD=dense_inputs(batches))

    def hidden(self, inputs: Inputs) -> Tensor:
        """Return the trunk's state; [B, H]."""
        hidden_BH: Tensor = self.network.trunk(self.tables(inputs.lookups), inputs.dense_BD)
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
        parts = [np.empty((0, len(self.schema.labels)), dtype=np.float32)]
        for part in self.inputs(batches).minibatches(SCORING_ROWS):
            parts.append(self.serve(self.hidden(part)).numpy())
        return np.concatenate(parts)

    def num_parameters(self) -> int:
        """Return how many numbers serving needs: tables, trunk and serving head."""
        return _num_parameters(self.schema, self.network)


def num_parameters(schema: Schema, config: ModelConfig) -> int:
    """Return how many numbers serving a model would need; its tables are not made."""
    widened = schema.widen(config.dim_factor)
    return _num_parameters(widened, DenseNetwork(widened, config.network))


def _num_parameters(schema: Schema, network: DenseNetwork) -> int:
    tables = sum(table.rows * table.dim for table in schema.tables)
    return tables + sum(parameter.numel() for parameter in network.parameters())
