"""A generated model and requests for it: what servers are measured with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from exfm.artifact.bundle import DENSE_FILE, BundleManifest, seal_bundle
from exfm.artifact.plan import ShardPlan
from exfm.features.oip import LENGTHS_SUFFIX, Tensor
from exfm.models.config import NetworkConfig
from exfm.models.network import DenseNetwork
from exfm.planning.statistics import Statistics, TableStatistics
from exfm.schema import Net, Schema
from exfm.sharding.shard_files import write_shards

MODEL_NAME = "bench"

_Z_P99 = 2.326


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
        return 1 if self.pooling_mean == 1 else int(4 * self.pooling_mean)


FEATURES = (
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
)
"""Two nets of six tables: 75 MB, single ids and long bags, narrow and wide rows."""

NETWORK = NetworkConfig(bottom_units=(32,), num_cross_layers=2, cross_rank=32, top_units=(128, 64))


def make_schema() -> Schema:
    """Return the generated model's schema."""
    return Schema.parse(
        {
            "impression_key": "impression_id",
            "event_time": {"column": "time_s"},
            "domain": "domain",
            "dense": [{"name": "age", "net": "user"}, {"name": "price", "net": "item"}],
            "sparse": [
                {
                    "name": feature.name,
                    "net": feature.net,
                    "kind": "single" if feature.pooling_mean == 1 else "bag",
                    "table": feature.name,
                    "max_length": feature.max_length,
                }
                for feature in FEATURES
            ],
            "tables": [{"name": feature.name, "rows": feature.rows, "dim": feature.dim} for feature in FEATURES],
            "labels": [{"name": "click", "feedback": "click", "attribution_window": 3600}],
        },
        source="the generated schema",
    )


def make_statistics(*, candidates: int) -> Statistics:
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
                pooling_p99=float(np.quantile(_lengths(feature, 20_000, np.random.default_rng(0)), 0.99)),
            )
            for feature in FEATURES
        ),
        num_requests=1,
        candidates_mean=candidates,
    )


def make_messages(num_messages: int, *, candidates: int, seed: int) -> list[bytes]:
    """Return requests for the ranker's gRPC door, serialized: one user each, and so many candidates."""
    # Here, since a process can hold kserve's messages or tritonclient's, and tests of servers hold the latter.
    from exfm.serving.requests import request_bytes

    generator = np.random.default_rng(seed)
    return [request_bytes(_request(candidates, generator), model_name=MODEL_NAME) for _ in range(num_messages)]


def write_bundle(folder: Path, plan: ShardPlan) -> BundleManifest:
    """Write a bundle of the generated model, with random weights; return its manifest."""
    schema = make_schema()
    generator = torch.Generator().manual_seed(0)
    weights = {table.name: torch.randn(table.rows, table.dim, generator=generator) for table in schema.tables}
    torch.manual_seed(0)
    (folder / DENSE_FILE).parent.mkdir(parents=True)
    safetensors.torch.save_file(DenseNetwork(schema, NETWORK).state_dict(), folder / DENSE_FILE)
    write_shards(folder, weights, plan, hottest={})
    return seal_bundle(folder, name=MODEL_NAME, schema=schema, network=NETWORK.to_dict(), plan=plan, lineage={})


def _lengths(feature: GeneratedFeature, num_bags: int, generator: np.random.Generator) -> npt.NDArray[np.int32]:
    """Return the ids of each bag: of a single 1, else Poisson around a gamma variate, but not too many."""
    if feature.pooling_mean == 1:
        return np.ones(num_bags, dtype=np.int32)
    means = generator.gamma(2.0, feature.pooling_mean / 2.0, size=num_bags)
    return np.minimum(generator.poisson(means), feature.max_length).astype(np.int32)


def _request(candidates: int, generator: np.random.Generator) -> dict[str, Tensor]:
    tensors = {
        "age": Tensor("FP32", generator.normal(size=1).astype(np.float32)),
        "price": Tensor("FP32", generator.normal(size=candidates).astype(np.float32)),
    }
    for feature in FEATURES:
        lengths = _lengths(feature, 1 if feature.net == "user" else candidates, generator)
        tensors[feature.name] = Tensor("INT64", generator.integers(2**40, size=int(lengths.sum())))
        if feature.pooling_mean != 1:
            tensors[feature.name + LENGTHS_SUFFIX] = Tensor("INT32", lengths)
    return tensors
