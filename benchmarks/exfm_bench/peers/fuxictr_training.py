"""FuxiCTR: its loader of .npz files, its embeddings, its steps and its Adam, with DCNv2 of low-rank crosses.

Its package has the layers of DCNv2, but not the model, which is put together here. Its own mixture of low-rank crosses
is slower, so that each cross layer is of two nn.Linear here. Legend: B examples, X all embeddings.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from torch import Tensor, nn
from turns import Settings, serve_turns


class DcnV2(BaseModel):  # type: ignore[misc]  # not installed where types are checked
    """Embeddings, crosses beside a tower, and one probability."""

    def __init__(self, features: FeatureMap, model: Any, *, scratch: Path) -> None:
        super().__init__(features, model_id="bench", verbose=0, model_root=str(scratch), metrics=["AUC"])
        network = model["network"]
        width = features.sum_emb_out_dim()
        self.embedding_layer = FeatureEmbedding(features, model["dim"])
        self.downs = nn.ModuleList(
            nn.Linear(width, network["cross_rank"], bias=False) for _ in range(network["num_cross_layers"])
        )
        self.ups = nn.ModuleList(nn.Linear(network["cross_rank"], width) for _ in self.downs)
        self.tower = MLP_Block(input_dim=width, hidden_units=network["top_units"], hidden_activations="ReLU")
        self.head = nn.Linear(width + network["top_units"][-1], 1)
        self.compile("adam", "binary_crossentropy", model["learning_rate"])
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Return the probabilities, [B, 1]."""
        x0_BX = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        x_BX = x0_BX
        for down, up in zip(self.downs, self.ups, strict=True):
            x_BX = torch.addcmul(x_BX, x0_BX, up(down(x_BX)))
        logits = self.head(torch.cat([x_BX, self.tower(x0_BX)], dim=1))
        return {"y_pred": self.output_activation(logits)}


def features_of(model: Any) -> FeatureMap:
    """Return the features as FuxiCTR describes them."""
    features = FeatureMap("bench", "")
    features.default_emb_dim = model["dim"]
    features.labels = [model["task"]]
    for name in model["features"]:
        features.features[name] = {"source": "", "type": "categorical", "vocab_size": model["rows"]}
    features.num_fields = features.get_num_fields()
    features.set_column_index()
    return features


def main() -> None:
    """Answer turns with the model and examples that the first argument's file names."""
    path = Path(sys.argv[1])
    model = json.loads(path.read_text(encoding="utf-8"))
    torch.manual_seed(model["seed"])
    features = features_of(model)
    network = DcnV2(features, model, scratch=path.parent)
    network._max_gradient_norm = 10.0  # its fit() sets these
    network._total_steps, network._stop_training = 0, False

    def train(settings: Settings) -> int:
        loader = NpzDataLoader(
            features, model["examples"], batch_size=model["batch_size"], num_workers=settings["workers"]
        )
        network._eval_steps = sys.maxsize  # no evaluation
        network.train_epoch(loader)
        return int(loader.num_samples)

    serve_turns(train)


if __name__ == "__main__":
    main()
