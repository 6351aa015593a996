"""A ranking model as PyTorch has it: an nn.EmbeddingBag in fp32 for each feature, and the dense network.

It runs in other servers' environments too, so nothing of exfm is imported. It hashes ids and reads weights as exfm
does, so that scores can be compared. Legend: B bags of one feature, N items, X all embeddings and dense features.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

MODEL_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"

Inputs = Mapping[str, npt.NDArray[Any]]


class PlainModel:
    """Scores candidates, of one user a request."""

    def __init__(self, folder: Path) -> None:
        """Read a model that `exfm bench serving` wrote."""
        self._features = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
        self._dense = load_file(folder / WEIGHTS_FILE)
        self._bags = {
            name: nn.EmbeddingBag.from_pretrained(
                self._dense.pop(f"tables.{name}"), mode="sum", include_last_offset=True
            )
            for name in self._features["sparse"]
        }

    @torch.inference_mode()
    def scores(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Return each candidate's score; shape [N]."""
        nets = {"user": [], "item": []}  # type: dict[str, list[Tensor]]
        for name, net in self._features["sparse"].items():
            nets[net].append(self._pooled(name, inputs))
        num_items = len(inputs[next(name for name, net in self._features["dense"].items() if net == "item")])
        dense = [
            torch.from_numpy(inputs[name].astype(np.float32)).expand(num_items) for name in self._features["dense"]
        ]
        columns = [part.expand(num_items, -1) for net in ("user", "item") for part in nets[net]]
        x0_NX = torch.cat([*columns, self._tower("trunk.bottom", torch.stack(dense, dim=1))], dim=1)
        x_NX, layer = x0_NX, 0
        while (down := self._dense.get(f"trunk.crosses.{layer}.down.weight")) is not None:
            up = functional.linear(functional.linear(x_NX, down), *self._linear(f"trunk.crosses.{layer}.up"))
            x_NX, layer = x0_NX * up + x_NX, layer + 1
        hidden = torch.cat([x_NX, self._tower("trunk.top", x0_NX)], dim=1)
        return functional.linear(hidden, *self._linear("serving_head")).sigmoid()[:, 0].numpy()

    def _pooled(self, name: str, inputs: Inputs) -> Tensor:
        ids = inputs[name]
        lengths_B = inputs.get(f"{name}.lengths", np.ones(len(ids), dtype=np.int64))
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths_B, dtype=np.int64)])
        rows = rows_of(ids, self._bags[name].num_embeddings)
        pooled: Tensor = self._bags[name](torch.from_numpy(rows), torch.from_numpy(offsets))
        return pooled

    def _tower(self, name: str, x_NX: Tensor) -> Tensor:
        layer = 0
        while f"{name}.{layer}.weight" in self._dense:
            x_NX, layer = functional.linear(x_NX, *self._linear(f"{name}.{layer}")).relu(), layer + 2
        return x_NX

    def _linear(self, name: str) -> tuple[Tensor, Tensor]:
        return self._dense[f"{name}.weight"], self._dense[f"{name}.bias"]


def rows_of(ids: npt.NDArray[np.int64], num_rows: int) -> npt.NDArray[np.int64]:
    """Return each id's row: SplitMix64, then the upper half of its product with the number of rows."""
    z = ids.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    half, rows = np.uint64(32), np.uint64(num_rows)
    upper = (z >> half) * rows + ((z & np.uint64(0xFFFFFFFF)) * rows >> half)
    return (upper >> half).view(np.int64)
