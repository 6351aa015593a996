"""Trainable embedding tables, all in one FBGEMM call, with the optimizer fused into the backward pass.

Tables of one dim are a block, which is one table of FBGEMM: its code is slower for a table that only one feature uses.

Legend: B examples, F features, E dims of all looked-up features side by side: the user's, then the item's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import fbgemm_gpu.split_table_batched_embeddings_ops_training as fbgemm
import numpy as np
import numpy.typing as npt
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation, PoolingMode
from torch import Tensor, nn

from exfm.artifact.rows import Rows, rows_of_keys
from exfm.features.batch import NetBatches
from exfm.models.config import TablesConfig
from exfm.schema import NETS, Net, Schema, SparseFeature, Table

MAX_BLOCK_ROWS = 2**31 - 2
"""The most rows of a table that FBGEMM trains on a CPU."""

ADAGRAD_EPSILON = 1e-8

_DRAWN_ROWS = 65_536
"""Rows that are drawn at once."""


@dataclass(frozen=True)
class Lookups:
    """Rows that examples look up, feature after feature."""

    rows: Rows
    """Row numbers, in a table or in a block."""
    factors: npt.NDArray[np.float32] | None
    """Factor of each row in its sum: 1 / length of its bag where the table pools by mean, else 1. None: all are 1."""
    offsets_FB: npt.NDArray[np.int64]
    """Where the rows of a feature's examples start, and where those of the last one end; shape [F, B + 1]."""

    def of(self, start: int, stop: int) -> "Lookups":
        """Return the lookups of examples `start` to `stop`, without a copy."""
        return Lookups(self.rows, self.factors, self.offsets_FB[:, start : stop + 1])

    def lengths(self) -> npt.NDArray[np.int64]:
        """Return how many rows each bag has, feature after feature; shape [F x B]."""
        return np.diff(self.offsets_FB, axis=1).ravel()

    def joined(self) -> tuple[Tensor, Tensor | None]:
        """Return the rows of these examples, feature after feature, and their factors."""
        ranges = list(zip(self.offsets_FB[:, 0].tolist(), self.offsets_FB[:, -1].tolist(), strict=True))
        return _joined(self.rows, ranges), None if self.factors is None else _joined(self.factors, ranges)


class EmbeddingTables(nn.Module):
    """All tables of a schema; returns pooled embeddings, trained by row-wise Adagrad inside backward().

    Row-wise Adagrad keeps one number a row, so its state is 1/dim of the tables.
    """

    def __init__(self, schema: Schema, config: TablesConfig, *, seed: int) -> None:
        super().__init__()
        self._blocks = blocks_of(schema.tables)
        self._names = [table.name for table in schema.tables]
        block_of = {table.name: index for index, block in enumerate(self._blocks) for table in block}
        features = features_of(schema)
        # FBGEMM wants the features of a block side by side; the answer's columns are put back in the schema's order.
        self._features = sorted(features, key=lambda item: block_of[item[1].table])
        self._tables = [schema.table(feature.table) for _, feature in self._features]
        self._positions = [self._features.index(item) for item in features]
        self._lookup = fbgemm.SplitTableBatchedEmbeddingBagsCodegen(
            embedding_specs=[
                (_num_rows(block), block[0].dim, EmbeddingLocation.HOST, fbgemm.ComputeDevice.CPU)
                for block in self._blocks
            ],
            feature_table_map=[block_of[table.name] for table in self._tables],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=config.learning_rate,
            eps=ADAGRAD_EPSILON,
            pooling_mode=PoolingMode.SUM,
            bounds_check_mode=BoundsCheckMode.NONE,  # a key's row is in its table
        )
        self._first_rows = {
            table.name: _num_rows(block[:place]) for block in self._blocks for place, table in enumerate(block)
        }
        self._factors_learn = torch.zeros(len(features), dtype=torch.int32)
        draw_rows(schema.tables, self.weights(), config, seed=seed)

    def lookups(self, batches: NetBatches) -> Lookups:
        """Return what examples look up, as rows of blocks."""
        return lookups_of(batches, self._features, self._tables, self._first_rows)

    def forward(self, lookups: Lookups) -> Tensor:
        """Return the pooled embeddings of each example; float32 [B, E]. An empty bag pools to zeros."""
        lengths = lookups.lengths()
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        rows, factors = lookups.joined()
        pooled_BE: Tensor = self._lookup(rows, torch.from_numpy(offsets), factors, self._factors_learn)
        if len(self._blocks) == 1:
            return pooled_BE
        parts = torch.split(pooled_BE, [table.dim for table in self._tables], dim=1)
        return torch.cat([parts[position] for position in self._positions], dim=1)

    def weights(self) -> dict[str, Tensor]:
        """Return each table, [rows, dim], by name; writing to it changes the table."""
        return self._by_table(self._lookup.split_embedding_weights())

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return Adagrad's sum of squares for each row, [rows], by table; writing to it changes the state."""
        return self._by_table([state[0] for state in self._lookup.split_optimizer_states()])

    def _by_table(self, of_blocks: Sequence[Tensor]) -> dict[str, Tensor]:
        found = {
            table.name: part
            for block, rows in zip(self._blocks, of_blocks, strict=True)
            for table, part in zip(block, torch.split(rows, [table.rows for table in block]), strict=True)
        }
        return {name: found[name] for name in self._names}


def features_of(schema: Schema) -> list[tuple[Net, SparseFeature]]:
    """Return the sparse features with their nets: the user's, then the item's."""
    return [(net, feature) for net in NETS for feature in schema.sparse_of(net)]


def lookups_of(
    batches: NetBatches,
    features: Sequence[tuple[Net, SparseFeature]],
    tables: Sequence[Table],
    first_rows: Mapping[str, int],
) -> Lookups:
    """Return what examples look up, feature after feature; `tables` are the features', `first_rows` is by table."""
    every = [batches.of(net).bags[feature.name] for net, feature in features]
    rows = [
        rows_of_keys(bags.keys, table.rows) + first_rows[table.name] for bags, table in zip(every, tables, strict=True)
    ]
    starts_F = np.cumsum([0, *map(len, rows)])[:-1]
    offsets_FB = np.stack([bags.offsets for bags in every]) + starts_F[:, np.newaxis]
    factors = None
    is_mean_F = np.array([table.pooling == "mean" for table in tables])
    if is_mean_F.any():
        lengths_FB = np.diff(offsets_FB, axis=1)
        factors_FB = np.where(is_mean_F[:, np.newaxis], 1 / lengths_FB.clip(min=1), 1).astype(np.float32)
        factors = np.repeat(factors_FB, lengths_FB.ravel())
    return Lookups(rows=np.concatenate(rows), factors=factors, offsets_FB=offsets_FB)


def draw_rows(tables: Sequence[Table], weights: Mapping[str, Tensor], config: TablesConfig, *, seed: int) -> None:
    """Fill tables with their first rows; those that are not among `weights` are drawn, too, and dropped.

    So a table starts with the same rows in every process that has it.
    """
    generator = torch.Generator().manual_seed(seed)
    for table in tables:
        for start in range(0, table.rows, _DRAWN_ROWS):
            rows = torch.empty(min(_DRAWN_ROWS, table.rows - start), table.dim)
            rows.uniform_(-config.init_scale, config.init_scale, generator=generator)
            if table.name in weights:
                weights[table.name][start : start + len(rows)] = rows


def blocks_of(tables: Sequence[Table]) -> list[list[Table]]:
    """Return tables of one dim together, MAX_BLOCK_ROWS rows at most unless a table alone has more."""
    blocks: list[list[Table]] = []
    open_blocks: dict[int, list[Table]] = {}
    for table in tables:
        block = open_blocks.get(table.dim)
        if block is None or _num_rows(block) + table.rows > MAX_BLOCK_ROWS:
            block = open_blocks[table.dim] = []
            blocks.append(block)
        block.append(table)
    return blocks


def _num_rows(block: Sequence[Table]) -> int:
    return sum(table.rows for table in block)


def _joined(values: npt.NDArray[np.float32] | Rows, ranges: Sequence[tuple[int, int]]) -> Tensor:
    return torch.from_numpy(np.concatenate([values[first:last] for first, last in ranges]))
