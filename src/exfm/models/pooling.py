"""Pooling by mean, from embeddings pooled by sum: the same in training, offline scoring and the ranker.

Legend: B rows of one net, F sparse features of that net, E their dims side by side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from exfm.features.batch import Batch
from exfm.schema import Schema, SparseFeature


def with_means(pooled_BE: Tensor, batch: Batch, features: Sequence[SparseFeature], schema: Schema) -> Tensor:
    """Return embeddings pooled by sum with those of tables that pool by mean divided by the bag's length.

    An empty bag pools to zeros either way.
    """
    if all(schema.table(feature.table).pooling == "sum" for feature in features):
        return pooled_BE
    dims = [schema.table(feature.table).dim for feature in features]
    parts = list(torch.split(pooled_BE, dims, dim=1))
    for index, feature in enumerate(features):
        if schema.table(feature.table).pooling == "mean":
            parts[index] = mean_of(parts[index], batch, feature.name)
    return torch.cat(parts, dim=1)


def mean_of(pooled_BE: Tensor, batch: Batch, feature: str) -> Tensor:
    """Return a feature's embeddings, pooled by sum, divided by the lengths of its bags."""
    lengths_B = torch.from_numpy(batch.bags[feature].lengths).to(pooled_BE.device).clamp(min=1)
    return pooled_BE / lengths_B.unsqueeze(1)


def side_by_side(columns: Sequence[Tensor]) -> Tensor:
    """Return columns in pieces, [B, ...] each, as one float32 tensor; a single one of float32 is not copied."""
    return (columns[0] if len(columns) == 1 else torch.cat(list(columns), dim=1)).float()
