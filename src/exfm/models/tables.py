"""Trainable embedding tables, all in one FBGEMM call, with the optimizer fused into the backward pass.

Legend: B examples, E dims of all looked-up features side by side: the user's, then the item's.
"""

import fbgemm_gpu.split_table_batched_embeddings_ops_training as fbgemm
import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from torch import Tensor, nn

from exfm.artifact.rows import rows_of_keys
from exfm.features.batch import NetBatches
from exfm.models.config import TablesConfig
from exfm.schema import NETS, Schema


class EmbeddingTables(nn.Module):
    """All tables of a schema; returns pooled embeddings, trained by row-wise Adagrad inside backward().

    Row-wise Adagrad keeps one number a row, so its state is 1/dim of the tables.
    """

    def __init__(self, schema: Schema, config: TablesConfig, *, seed: int) -> None:
        super().__init__()
        self._names = [table.name for table in schema.tables]
        features = [(net, feature) for net in NETS for feature in schema.sparse_of(net)]
        # FBGEMM wants the features of one table side by side; the answer's columns are put back in the schema's order.
        self._features = sorted(features, key=lambda item: self._names.index(item[1].table))
        self._dims = [schema.table(feature.table).dim for _, feature in self._features]
        self._positions = [self._features.index(item) for item in features]
        self._rows = {table.name: table.rows for table in schema.tables}
        self._lookup = fbgemm.SplitTableBatchedEmbeddingBagsCodegen(
            embedding_specs=[
                (table.rows, table.dim, EmbeddingLocation.HOST, fbgemm.ComputeDevice.CPU) for table in schema.tables
            ],
            feature_table_map=[self._names.index(feature.table) for _, feature in self._features],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=config.learning_rate,
            eps=1e-8,
            pooling_mode=PoolingMode.SUM,
        )
        generator = torch.Generator().manual_seed(seed)
        for weight in self.weights().values():
            weight.uniform_(-config.init_scale, config.init_scale, generator=generator)

    def forward(self, batches: NetBatches) -> Tensor:
        """Return each example's embeddings, pooled by sum; float32 [B, E]."""
        rows, lengths = [], []
        for net, feature in self._features:
            bags = batches.of(net).bags[feature.name]
            rows.append(rows_of_keys(bags.keys, self._rows[feature.table]))
            lengths.append(bags.lengths)
        offsets = np.zeros(sum(map(len, lengths)) + 1, dtype=np.int64)
        np.cumsum(np.concatenate(lengths), out=offsets[1:])
        pooled_BE = self._lookup(torch.from_numpy(np.concatenate(rows)), torch.from_numpy(offsets))
        parts = torch.split(pooled_BE, self._dims, dim=1)
        return torch.cat([parts[position] for position in self._positions], dim=1)

    def weights(self) -> dict[str, Tensor]:
        """Return each table, [rows, dim], by name; writing to it changes the table."""
        return dict(zip(self._names, self._lookup.split_embedding_weights(), strict=True))

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return Adagrad's sum of squares for each row, [rows], by table; writing to it changes the state."""
        states = self._lookup.split_optimizer_states()
        return {name: state[0] for name, state in zip(self._names, states, strict=True)}
