"""Generated models, of random weights, and requests for them: what servers are measured with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from exfm.artifact.bundle import DENSE_FILE, BundleManifest, draft_bundle, seal_bundle
from exfm.artifact.plan import ShardPlan
from exfm.bundling.shard_files import write_shards
from exfm.features.oip import LENGTHS_SUFFIX, Tensor
from exfm.models.config import NetworkConfig
from exfm.models.network import DenseNetwork
from exfm.planning.statistics import Statistics, TableStatistics
from exfm.schema import Net, Schema, Table
from exfm.serving.oip.grpc.client import request_bytes

MODEL_NAME = "bench"

Request = dict[str, Tensor]
"""A request's inputs, by name."""

DENSE: tuple[tuple[str, Net], ...] = (("age", "user"), ("price", "item"))
"""Dense features, and whose they are."""


@dataclass(frozen=True)
class GeneratedFeature:
    """A sparse feature with a table of its own."""

    name: str
    net: Net
    rows: int
    dim: int
    pooling_mean: float
    """Ids a bag; 1 makes it a single."""

    @property
    def max_length(self) -> int:
        """Return how many ids a bag may have; about one in a hundred would have more."""
        return 1 if self.pooling_mean == 1 else max(1, int(4 * self.pooling_mean))

    def lengths(self, num_bags: int, generator: np.random.Generator) -> npt.NDArray[np.int32]:
        """Return the ids of each bag: of a single 1, else Poisson around a gamma variate, but not too many."""
        if self.pooling_mean == 1:
            return np.ones(num_bags, dtype=np.int32)
        means = generator.gamma(2.0, self.pooling_mean / 2.0, size=num_bags)
        return np.minimum(generator.poisson(means), self.max_length).astype(np.int32)


@dataclass(frozen=True)
class GeneratedModel:
    """Sparse features, the two dense ones, and a network."""

    features: tuple[GeneratedFeature, ...]
    network: NetworkConfig

    def schema(self) -> Schema:
        """Return the model's schema."""
        return Schema.parse(
            {
                "impression_key": "impression_id",
                "event_time": {"column": "time_s"},
                "domain": "domain",
                "dense": [{"name": name, "net": net} for name, net in DENSE],
                "sparse": [
                    {
                        "name": feature.name,
                        "net": feature.net,
                        "kind": "single" if feature.pooling_mean == 1 else "bag",
                        "table": feature.name,
                        "max_length": feature.max_length,
                    }
                    for feature in self.features
                ],
                "tables": [
                    {"name": feature.name, "rows": feature.rows, "dim": feature.dim} for feature in self.features
                ],
                "labels": [{"name": "click", "feedback": "click", "attribution_window": 3600}],
            },
            source="the generated schema",
        )

    def statistics(self, *, candidates: int) -> Statistics:
        """Return the statistics of the generated requests: what they are drawn from, not counts."""
        return Statistics(
            tables=tuple(
                TableStatistics(
                    name=feature.name,
                    net=feature.net,
                    rows=feature.rows,
                    dim=feature.dim,
                    request_share=1.0,
                    bags_per_request=1 if feature.net == "user" else candidates,
                    pooling_mean=feature.pooling_mean,
                    pooling_p99=float(np.quantile(feature.lengths(20_000, np.random.default_rng(0)), 0.99)),
                )
                for feature in self.features
            ),
            num_requests=1,
            candidates_mean=candidates,
        )

    def requests(self, num_requests: int, *, candidates: int, seed: int) -> list[Request]:
        """Return requests: one user each, and so many candidates. They do not depend on the tables' rows."""
        generator = np.random.default_rng(seed)
        return [self._request(candidates, generator) for _ in range(num_requests)]

    def messages(self, num_messages: int, *, candidates: int, seed: int) -> list[bytes]:
        """Return such requests for the ranker's gRPC server, serialized."""
        return messages_of(self.requests(num_messages, candidates=candidates, seed=seed))

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return each table's rows, the same every time."""
        return _RandomTables(self.schema().tables)

    def dense_network(self) -> DenseNetwork:
        """Return the network with its weights, the same every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return DenseNetwork(self.schema(), self.network)

    def write_bundle(self, folder: Path, plan: ShardPlan) -> BundleManifest:
        """Write a bundle of the model as this plan places it; return its manifest."""
        (folder / DENSE_FILE).parent.mkdir(parents=True)
        safetensors.torch.save_file(self.dense_network().state_dict(), folder / DENSE_FILE)
        write_shards(folder, self.weights(), plan, hottest={})
        schema, network = self.schema(), self.network.to_dict()
        return seal_bundle(folder, draft_bundle(name=MODEL_NAME, schema=schema, network=network, plan=plan, lineage={}))

    def _request(self, candidates: int, generator: np.random.Generator) -> Request:
        num_rows = {"user": 1, "item": candidates}
        tensors = {name: Tensor("FP32", generator.normal(size=num_rows[net]).astype(np.float32)) for name, net in DENSE}
        for feature in self.features:
            lengths = feature.lengths(num_rows[feature.net], generator)
            tensors[feature.name] = Tensor("INT64", generator.integers(2**40, size=int(lengths.sum())))
            if feature.pooling_mean != 1:
                tensors[feature.name + LENGTHS_SUFFIX] = Tensor("INT32", lengths)
        return tensors


def messages_of(requests: Sequence[Request]) -> list[bytes]:
    """Return requests for the ranker's gRPC server, serialized."""
    return [request_bytes(request, model_name=MODEL_NAME) for request in requests]


class _RandomTables(Mapping[str, torch.Tensor]):
    """Tables that are drawn at each access: together they may be larger than memory."""

    def __init__(self, tables: tuple[Table, ...]) -> None:
        self._tables = {table.name: (seed, table) for seed, table in enumerate(tables)}

    def __getitem__(self, name: str) -> torch.Tensor:
        seed, table = self._tables[name]
        return torch.randn(table.rows, table.dim, generator=torch.Generator().manual_seed(seed))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


SMALL_NETWORK = NetworkConfig(bottom_units=(32,), num_cross_layers=2, cross_rank=32, top_units=(128, 64))
"""Layers that take little beside their tables."""

GENERATED = GeneratedModel(
    features=(
        GeneratedFeature("user_id", "user", 100_000, 64, 1),
        GeneratedFeature("user_place", "user", 5_000, 16, 1),
        GeneratedFeature("seen", "user", 100_000, 64, 40),
        GeneratedFeature("bought", "user", 50_000, 32, 12),
        GeneratedFeature("searched", "user", 50_000, 32, 20),
        GeneratedFeature("followed", "user", 20_000, 16, 8),
        GeneratedFeature("item_id", "item", 100_000, 64, 1),
        GeneratedFeature("item_seller", "item", 20_000, 32, 1),
        GeneratedFeature("item_brand", "item", 5_000, 16, 1),
        GeneratedFeature("item_words", "item", 50_000, 32, 6),
        GeneratedFeature("item_topics", "item", 2_000, 16, 3),
        GeneratedFeature("item_like", "item", 50_000, 32, 4),
    ),
    network=SMALL_NETWORK,
)
"""Two nets of six tables: 75 MB, single ids and long bags, narrow and wide rows."""
