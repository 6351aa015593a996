"""torchrec in one process: its fused embedding collection, low-rank cross net and MLP, from arrays in memory.

Torchrec reads no files of examples, so reading is not timed. Legend: B examples, F features, T tables.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.modules.crossnet import LowRankCrossNet
from torchrec.modules.embedding_configs import DataType
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.modules.mlp import MLP
from torchrec.optim import RowWiseAdagrad
from turns import Settings, serve_turns


class DcnV2(nn.Module):
    """Tables, crosses beside a tower, and one logit."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        network, names = model["network"], model["features"]
        width = len(names) * model["dim"]
        self.tables = FusedEmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=name,
                    embedding_dim=model["dim"],
                    num_embeddings=model["rows"],
                    feature_names=[name],
                    data_type=DataType[model["precision"]],
                )
                for name in names
            ],
            optimizer_type=RowWiseAdagrad,
            optimizer_kwargs={"lr": model["tables_learning_rate"]},
            device=torch.device("cpu"),
        )
        self.crosses = LowRankCrossNet(width, network["num_cross_layers"], low_rank=network["cross_rank"])
        self.tower = MLP(width, network["top_units"])
        self.head = nn.Linear(width + network["top_units"][-1], 1)

    def forward(self, bags: KeyedJaggedTensor) -> Tensor:
        """Return the logits, [B]."""
        x_BX = self.tables(bags).values().float()
        logits_B: Tensor = self.head(torch.cat([self.crosses(x_BX), self.tower(x_BX)], dim=1))[:, 0]
        return logits_B


def main() -> None:
    """Answer turns with the model and examples that the first argument's file names."""
    model = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.manual_seed(model["seed"])
    arrays = np.load(model["examples"])
    names, size = model["features"], model["batch_size"]
    ids_FB = torch.from_numpy(np.stack([arrays[name] for name in names]))
    labels_B = torch.from_numpy(arrays[model["task"]]).float()
    network = DcnV2(model)
    dense = [value for name, value in network.named_parameters() if not name.startswith("tables.")]
    optimizer = torch.optim.Adam(dense, lr=model["learning_rate"], fused=True)
    lengths = torch.ones(len(names) * size, dtype=torch.int64)

    def train(settings: Settings) -> int:
        for start in range(0, len(labels_B), size):
            ids = ids_FB[:, start : start + size].reshape(-1)
            bags = KeyedJaggedTensor(keys=names, values=ids, lengths=lengths[: len(ids)])
            optimizer.zero_grad()
            logits_B = network(bags)
            loss = nn.functional.binary_cross_entropy_with_logits(logits_B, labels_B[start : start + size])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return len(labels_B)

    serve_turns(train)


if __name__ == "__main__":
    main()
