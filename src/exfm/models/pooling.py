"""Pooling by mean, from embeddings pooled by sum: the same in offline scoring and the ranker.

Legend: B rows of one net, E dims of one of its features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from exfm.features.batch import Batch


def mean_of(pooled_BE: Tensor, batch: Batch, feature: str) -> Tensor:
    """Return a feature's embeddings, pooled by sum, divided by the lengths of its bags; an empty bag's stays zero."""
    lengths_B = torch.from_numpy(batch.bags[feature].lengths).to(pooled_BE.device).clamp(min=1)
    return pooled_BE / lengths_B.unsqueeze(1)


def side_by_side(columns: Sequence[Tensor]) -> Tensor:
    """Return columns in pieces, [B, ...] each, as one float32 tensor; a single one of float32 is not copied."""
    return (columns[0] if len(columns) == 1 else torch.cat(list(columns), dim=1)).float()
