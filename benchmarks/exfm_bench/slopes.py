"""Prices of lookups, bags, keys and bytes, out of what servers run, in one process and without the network.

Between servers such prices hide behind those of calls; here requests of up to 131,000 keys bring them out.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import nnls

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.plan import Assignment, ShardPlan, assign
from exfm.features.batch import NetBatches
from exfm.features.oip import LENGTHS_SUFFIX, Tensor
from exfm.features.request import encode_request
from exfm.models.config import NetworkConfig
from exfm.models.network import DenseNetwork
from exfm.models.scoring import Scorer
from exfm.models.shard_tables import ShardTables
from exfm.planning.cost_model.costs import CallPrices, CostModel
from exfm.planning.cost_model.work import KEY_BYTES, LENGTH_BYTES
from exfm.schema import Schema
from exfm.serving.shard.oip_lookups import checked_bags
from exfm.serving.shard_protocol.frames import HEAD, Frame, answer_frame, read_answer, read_request, request_frame

Floats = npt.NDArray[np.float64]

NUM_REQUESTS = 12
"""Requests of each scenario, all different, so that their rows are not in a cache; the median counts."""
TABLES_BYTES = 256 * 2**20
"""Bytes of all tables of a scenario: more than caches hold."""
SMALLEST_NETWORK = NetworkConfig(bottom_units=(), num_cross_layers=0, cross_rank=1, top_units=())
"""A network with almost no work, because its time is part of what a candidate costs."""
BUNDLE_ID = "0" * 64


@dataclass(frozen=True)
class Slopes:
    """Prices at both ends of a call; a call's own and its nets' are not among them, and 0."""

    ranker: CallPrices
    shard: CallPrices
    read_byte_ns: float

    def put_into(self, costs: CostModel) -> CostModel:
        """Return the cost model with these prices."""
        by_end = {
            end: getattr(costs, end).model_copy(update={name: getattr(getattr(self, end), name) for name in NAMES})
            for end in ("ranker", "shard")
        }
        return costs.model_copy(update={**by_end, "read_byte_ns": self.read_byte_ns})


NAMES = ("lookup_us", "bag_ns", "key_ns", "byte_ns")


@dataclass(frozen=True)
class Scenario:
    """A model whose features are all alike, and its requests."""

    num_features: int
    dim: int
    pooling: int
    candidates: int

    def schema(self) -> Schema:
        """Return the model's schema: items' bags only."""
        names = [f"f{index}" for index in range(self.num_features)]
        rows = TABLES_BYTES // (self.num_features * self.dim * 4)
        return Schema.parse(
            {
                "impression_key": "id",
                "event_time": {"column": "time"},
                "domain": "domain",
                "sparse": [{"name": name, "net": "item", "kind": "bag", "table": name} for name in names],
                "tables": [{"name": name, "rows": rows, "dim": self.dim} for name in names],
                "labels": [{"name": "label", "feedback": "label", "attribution_window": 1}],
            },
            source="a scenario",
        )

    def amounts(self) -> list[float]:
        """Return the thousands of microseconds' worth: a call, lookups, bags, keys, bytes of both messages and read."""
        bags = self.num_features * self.candidates
        keys = bags * self.pooling
        message_bytes = keys * KEY_BYTES + bags * (LENGTH_BYTES + 4 * self.dim)
        return [1.0, self.num_features, bags * 1e-3, keys * 1e-3, message_bytes * 1e-3, keys * self.dim * 4e-3]


SCENARIOS: Sequence[Scenario] = tuple(
    Scenario(*scenario) for scenario in product((2, 8), (16, 64, 256), (1, 4, 32), (16, 128, 512))
)


def measure_slopes(seed: int, *, scenarios: Sequence[Scenario] = SCENARIOS) -> Slopes:
    """Return the prices that fit all scenarios best, seven or more; some seconds.

    Tensors are worked on by one thread, as servers do.
    """
    generator = np.random.default_rng(seed)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found_us = np.array([_measure(scenario, generator) for scenario in scenarios])
    finally:
        torch.set_num_threads(num_threads)
    amounts = np.array([scenario.amounts() for scenario in scenarios])
    _, *shard = _fit(amounts, found_us[:, 1])
    _, *ranker = _fit(amounts[:, :-1], found_us[:, 0])
    return Slopes(_prices(ranker), _prices(shard[:-1]), shard[-1])


def _fit(amounts: Floats, found_us: Floats) -> list[float]:
    prices: list[float] = nnls(amounts / found_us[:, None], np.ones(len(found_us)))[0].tolist()
    return prices


def _prices(prices: Sequence[float]) -> CallPrices:
    return CallPrices(call_us=0, net_us=0, **dict(zip(NAMES, prices, strict=True)))


def _measure(scenario: Scenario, generator: np.random.Generator) -> tuple[float, float]:
    """Return the microseconds of ranker and shard for a request."""
    schema = scenario.schema()
    plan = ShardPlan(
        strategy="one-shard",
        num_shards=1,
        replicas=(1,),
        slices=assign(schema, [Assignment(table.name, 0, 0, table.rows) for table in schema.tables], 1),
    )
    manifest = BundleManifest(
        bundle_id=BUNDLE_ID,
        name="scenario",
        tasks=schema.tasks(),
        feature_schema=schema,
        network=SMALLEST_NETWORK.to_dict(),
        plan=plan,
        lineage={},
        files={},
    )
    scorer = Scorer(manifest, DenseNetwork(schema, SMALLEST_NETWORK))
    flat = torch.ones(plan.flat_size_bytes(0), dtype=torch.uint8)
    tables = ShardTables(flat, plan, schema, shard=0)
    times_us = [_measure_request(scenario, schema, scorer, tables, generator) for _ in range(NUM_REQUESTS)]
    ranker_us, shard_us = np.median(times_us, axis=0)
    return float(ranker_us), float(shard_us)


def _measure_request(
    scenario: Scenario, schema: Schema, scorer: Scorer, tables: ShardTables, generator: np.random.Generator
) -> tuple[float, float]:
    num_keys = scenario.candidates * scenario.pooling
    tensors: dict[str, Tensor] = {}
    for feature in schema.sparse:
        lengths = np.full(scenario.candidates, scenario.pooling, dtype=np.int32)
        tensors[feature.name] = Tensor("INT64", generator.integers(2**40, size=num_keys))
        tensors[feature.name + LENGTHS_SUFFIX] = Tensor("INT32", lengths)
    encode_s, (batches, request) = _timed(lambda: _encoded(tensors, schema, scorer))
    serve_s, answer = _timed(lambda: _served(request, scorer, tables))

    def score() -> None:
        _, pooled = read_answer(_received(answer))
        scorer.scores(
            batches, [{net: torch.from_numpy(of_net) for net, of_net in pooled.items()}], scorer.bottom(batches)
        )

    score_s, _ = _timed(score)
    return (encode_s + score_s) * 1e6, serve_s * 1e6


def _encoded(tensors: dict[str, Tensor], schema: Schema, scorer: Scorer) -> tuple[NetBatches, bytes]:
    batches = encode_request(tensors, schema)
    (bags,) = scorer.bags_for(batches)
    return batches, request_frame(bags, request=1, shard=0, bundle_id=BUNDLE_ID, allowed_us=0)


def _served(sent: bytes, scorer: Scorer, tables: ShardTables) -> bytes:
    request = read_request(_received(sent))
    num_lookups = len(scorer.lookups(0, "item"))
    bags = checked_bags(request.keys["item"], request.lengths["item"], None, net="item", num_lookups=num_lookups)
    pooled_BE = tables.pooled("item", bags)
    return b"".join(answer_frame({"item": pooled_BE.numpy()}, request=1, bundle_id=BUNDLE_ID))


def _received(sent: bytes) -> Frame:
    """Return a frame that was sent, copied once, as the kernel does."""
    kind, num_nets, shard, _, request = HEAD.unpack_from(sent)
    return Frame(kind, num_nets, shard, request, memoryview(bytearray(sent))[HEAD.size :])


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of some work, and what it gave."""
    start_s = time.thread_time()
    result = work()
    return time.thread_time() - start_s, result
