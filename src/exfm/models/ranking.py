"""A whole ranking model: embedding tables and dense network, as it is trained and as it scores offline.

Legend: B examples, H hidden units, T tasks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from exfm.features.batch import NetBatches
from exfm.models.config import ModelConfig
from exfm.models.network import DenseNetwork, dense_inputs
from exfm.models.ranks import ALONE, Ranks
from exfm.models.tables import EmbeddingTables, Lookups
from exfm.schema import Schema

if TYPE_CHECKING:
    from exfm.models.sharded_tables import ShardedTables

SCORING_ROWS = 8192
"""Examples scored at a time: bounds memory without costing time."""


@dataclass(frozen=True)
class Inputs:
    """What a model takes of examples of one user and one item each."""

    lookups: Lookups
    dense_BD: Tensor
    """Normalised dense features, the user's first."""

    def __len__(self) -> int:
        """Return B."""
        return len(self.dense_BD)

    def rows(self, start: int, stop: int) -> "Inputs":
        """Return the inputs of examples `start` to `stop`, without a copy."""
        return Inputs(self.lookups.of(start, stop), self.dense_BD[start:stop])

    def minibatches(self, size: int) -> Iterator["Inputs"]:
        """Yield the inputs of `size` examples at a time, in order, without a copy; the last may be fewer."""
        for start in range(0, len(self), size):
            yield self.rows(start, start + size)


class RankingModel(nn.Module):
    """Embedding tables, trunk and serving head."""

    def __init__(self, schema: Schema, config: ModelConfig, ranks: Ranks = ALONE) -> None:
        """Make a new model, which `ranks` have together.

        Raises: ConfigError if the schema's tables do not suit the network's interaction.
        """
        super().__init__()
        config.network.require_dims(schema)
        self.schema = schema.widen(config.dim_factor)
        self.config = config
        self.ranks = ranks
        torch.manual_seed(config.seed)
        self.network = DenseNetwork(self.schema, config.network).to(ranks.device)
        self.tables = _tables(self.schema, config, ranks)

    def tables_of_others(self) -> set[str]:
        """Return the names of the tables that other ranks have."""
        return {table.name for table in self.schema.tables} - self.tables.weights().keys()

    def inputs(self, batches: NetBatches) -> Inputs:
        """Return what the model takes of examples, whose keys become rows all at once."""
        return Inputs(lookups=self.tables.lookups(batches), dense_BD=dense_inputs(batches))

    def hidden(self, inputs: Inputs) -> Tensor:
        """Return the trunk's state; [B, H]."""
        hidden_BH: Tensor = self.network.trunk(self.tables(inputs.lookups), inputs.dense_BD.to(self.ranks.device))
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
        """Return the serving head's logits of all ranks' examples; [B, T]."""
        parts = [np.empty((0, len(self.schema.labels)), dtype=np.float32)]
        for part in self.inputs(batches).minibatches(SCORING_ROWS):
            own = part.rows(*self.ranks.rows_of(len(part)))
            parts.append(self.ranks.all_rows(self.serve(self.hidden(own)), len(part)).numpy())
        return np.concatenate(parts)

    def num_parameters(self) -> int:
        """Return how many numbers serving needs: tables, trunk and serving head."""
        return _num_parameters(self.schema, self.network)


def _tables(schema: Schema, config: ModelConfig, ranks: Ranks) -> "EmbeddingTables | ShardedTables":
    if not ranks.is_distributed:
        return EmbeddingTables(schema, config.tables, seed=config.seed)
    from exfm.models.sharded_tables import ShardedTables  # TorchRec is not everywhere, and takes seconds to load

    return ShardedTables(schema, config.tables, seed=config.seed, ranks=ranks)


def num_parameters(schema: Schema, config: ModelConfig) -> int:
    """Return how many numbers serving a model would need; its tables are not made."""
    widened = schema.widen(config.dim_factor)
    return _num_parameters(widened, DenseNetwork(widened, config.network))


def _num_parameters(schema: Schema, network: DenseNetwork) -> int:
    tables = sum(table.rows * table.dim for table in schema.tables)
    return tables + sum(parameter.numel() for parameter in network.parameters())
