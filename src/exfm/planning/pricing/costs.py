"""What a request costs: the work that a plan gives each shard, and the price of that work on rankers and shards.

Legend: S shards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from exfm.artifact.plan import ShardPlan, row_bytes
from exfm.artifact.storage import is_local, read_file
from exfm.config import Config, parse_yaml, read_yaml
from exfm.errors import PlanError
from exfm.planning.statistics import Statistics, TableStatistics
from exfm.schema import NETS, Net

Price = Annotated[float, Field(ge=0)]
PerShard = npt.NDArray[np.float64]

KEY_BYTES = 8
LENGTH_BYTES = 4
SUM_BYTES = 4
"""Of a key, of a bag's length and of a number of a sum, in a call."""

_Z_P99 = 2.326
"""The standard normal's 99th percentile."""


class CallPrices(Config):
    """CPU time that one end of the calls between ranker and shards takes, whichever shard they are for."""

    call_us: Price
    """A call: its message, the event loop's turns, the kernel's work."""
    net_us: Price
    """A net in a call: its tensors."""
    lookup_us: Price
    """A feature looked up in one slice of its table, however many bags it has."""
    bag_ns: Price
    """A bag of a lookup."""
    key_ns: Price
    """A key of a bag; at a shard, finding its row and the first touch of it."""
    byte_ns: Price
    """A byte of keys, lengths or sums, on its way out or in."""

    def cpu_s(
        self,
        *,
        calls: PerShard | float,
        nets: PerShard,
        lookups: PerShard,
        bags: PerShard,
        keys: PerShard,
        message_bytes: PerShard,
    ) -> PerShard:
        """Return the CPU time of so much work; shape of the arguments, which numpy broadcasts."""
        per_call_us = calls * self.call_us + nets * self.net_us + lookups * self.lookup_us
        in_call_ns = bags * self.bag_ns + keys * self.key_ns + message_bytes * self.byte_ns
        return per_call_us * 1e-6 + in_call_ns * 1e-9


class CostModel(Config):
    """Service times of a ranker and of shards on one core, and of the network between them.

    CPU times are those of a warm server, whose requests follow closely. What a cold one takes more, the simulator adds;
    the methods do not.
    """

    measured: str
    """When, on what and how; a sentence for people."""
    ranker_request_us: Price
    """CPU time of a request that asks no shard and has no candidate."""
    ranker_candidate_us: Price
    """CPU time of a candidate: its features and the dense network, whose size is the measured model's."""
    ranker: CallPrices
    """At the ranker, summed over shards."""
    shard: CallPrices
    read_byte_ns: Price
    """CPU time of a shard for a byte of the rows that it reads."""
    ranker_before_share: Annotated[float, Field(ge=0, le=1)]
    """Part of a ranker's CPU time that passes before its calls are out; the rest follows the answers."""
    network_latency_us: Price
    """From an end's kernel into the other end's program, one way; of an empty message."""
    network_byte_ns: Price
    """Time on the way of a byte; 0.8 is 10 Gbit/s."""
    spread: Annotated[float, Field(ge=0, le=5)]
    """Standard deviation of a service time over its mean, for the same work."""
    ranker_cold_us: Price = 0.0
    """CPU time that a request takes more at a ranker whose last one is long ago: its code must come back to caches."""
    shard_cold_us: Price = 0.0
    """The same at a shard, for a call."""
    cooling_ms: Annotated[float, Field(gt=0, le=10_000)] = 10.0
    """Time from one request to the next after which a server is cold but for a part 1/e."""
    beside_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the CPU time that threads beside a server's event loop take (gRPC's). On shared cores they run beside it;
    on a core of its own, a server has them wait for each other, as if it were one thread."""
    calls: Literal["shard", "net"] = "shard"
    """`shard`: a request makes one call to each shard, as exfm's rankers do. `net`: one for each net that the shard
    holds tables of, as the servers in arXiv:2011.02084 do."""

    @classmethod
    def read(cls, uri: str) -> "CostModel":
        """Return the costs in a YAML file, by its path or URL; an empty one gives those of exfm's own servers.

        Raises: ConfigError if the file is missing or malformed; StorageError if a URL cannot be read.
        """
        if not uri:
            return DEFAULT_COSTS
        data = read_yaml(Path(uri)) if is_local(uri) else parse_yaml(read_file(uri), source=uri)
        return cls.parse(data, source=uri)

    def num_calls(self, work: "ShardWork") -> PerShard:
        """Return the calls that a mean request makes to each shard; shape [S]."""
        return work.request_share if self.calls == "shard" else work.nets

    def shard_cpu_s(self, work: "ShardWork") -> PerShard:
        """Return each shard's CPU time for a mean request; shape [S]."""
        return self._calls_cpu_s(work, self.shard) + work.read_bytes * self.read_byte_ns * 1e-9

    def ranker_cpu_s(self, work: "ShardWork", candidates: float) -> float:
        """Return a ranker's CPU time for a request with so many candidates and this work for its shards."""
        own_us = self.ranker_request_us + candidates * self.ranker_candidate_us
        return own_us * 1e-6 + float(self._calls_cpu_s(work, self.ranker).sum())

    def _calls_cpu_s(self, work: "ShardWork", prices: CallPrices) -> PerShard:
        return prices.cpu_s(
            calls=self.num_calls(work),
            nets=work.nets,
            lookups=work.lookups,
            bags=work.bags,
            keys=work.keys,
            message_bytes=work.request_bytes + work.answer_bytes,
        )


DEFAULT_COSTS = CostModel(
    measured="2026-11-25, exfm's servers on 2 cores of an Intel Xeon at real-time priority beside other work, 12 loads "
    "of 2 plans of exfm_bench.workload's model, by exfm_bench.calibration; bytes on the way are assumed, 10 Gbit/s",
    ranker_request_us=1_050.0,
    ranker_candidate_us=2.8,
    ranker=CallPrices(call_us=85.0, net_us=17.5, lookup_us=28.0, bag_ns=5.7, key_ns=0.0, byte_ns=1.76),
    shard=CallPrices(call_us=402.0, net_us=58.0, lookup_us=33.0, bag_ns=56.0, key_ns=17.6, byte_ns=0.66),
    read_byte_ns=0.107,
    ranker_before_share=0.6,
    network_latency_us=76.0,
    network_byte_ns=0.8,
    spread=0.153,
    ranker_cold_us=3_770.0,
    shard_cold_us=1_610.0,
    cooling_ms=30.0,
    beside_share=0.155,
)
"""Of the servers of exfm, until another model's were measured."""


@dataclass(frozen=True)
class ShardWork:
    """What a mean request asks of each shard; each of shape [S]."""

    request_share: PerShard
    """Requests that call the shard: 0 without a lookup, else 1, since a ranker asks every shard that has one."""
    nets: PerShard
    """Nets that it has lookups of; 0 to 2."""
    lookups: PerShard
    """Pairs of a feature and a slice of its table."""
    bags: PerShard
    """Of all lookups. Each slice of a table gets every bag, and answers with a sum for it, empty or not."""
    keys: PerShard
    keys_variance: PerShard
    """Of a request's keys, at the mean number of candidates."""
    read_bytes: PerShard
    """Of rows, as often as they are read."""
    request_bytes: PerShard
    """Keys and lengths."""
    answer_bytes: PerShard
    """Sums."""

    def __add__(self, other: "ShardWork") -> Self:
        """Return the work of both, done in one request."""
        total = {name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__}
        return type(self)(**total | {"request_share": np.maximum(self.request_share, other.request_share)})


def work_of(plan: ShardPlan, statistics: Statistics) -> ShardWork:
    """Return what a mean request asks of each shard of a plan.

    Raises: PlanError, as `work_by_net`.
    """
    by_net = work_by_net(plan, statistics)
    return by_net["user"] + by_net["item"]


def work_by_net(plan: ShardPlan, statistics: Statistics) -> Mapping[Net, ShardWork]:
    """Return `work_of`, parted: users' work comes once a request, items' grows with the candidates.

    A hot slice takes the keys of its table's most wanted rows, row slices share the others by their rows: hashing
    spreads wanted rows evenly over key ranges. That is an expectation; one very hot row still burdens one slice.

    Raises: PlanError if the plan has a table that was not counted.
    """
    tables = {table.name: table for table in statistics.tables}
    unknown = sorted({slice_.table for slice_ in plan.slices} - tables.keys())
    if unknown:
        raise PlanError(f"the plan places table {unknown[0]!r}, which the statistics do not have: count it first")
    hot_mass = {slice_.table: mass_of(tables[slice_.table], slice_.num_rows)
                for slice_ in plan.slices if slice_.kind == "hot"}  # fmt: skip
    shards = np.array([slice_.shard for slice_ in plan.slices], dtype=np.int64)
    shares = np.array([
        hot_mass[slice_.table] if slice_.kind == "hot"
        else (1 - hot_mass.get(slice_.table, 0.0)) * slice_.num_rows / tables[slice_.table].rows
        for slice_ in plan.slices
    ])  # fmt: skip
    of_slices = [tables[slice_.table] for slice_ in plan.slices]
    return {
        net: _summed(of_slices, shares, shards, plan, net=net, candidates_mean=statistics.candidates_mean)
        for net in NETS
    }


def mass_of(table: TableStatistics, num_rows: int) -> float:
    """Return the share of a table's keys that its `num_rows` most wanted rows take.

    Between counted points it is a power law, and below the first a straight line from 0, which is too little. Where
    accesses were not counted, all rows are wanted alike.
    """
    points = [(point.num_rows, point.mass) for point in table.skew if point.mass > 0]
    if not points or points[-1][0] < table.rows:
        points.append((table.rows, 1.0))
    if num_rows <= points[0][0]:
        return points[0][1] * num_rows / points[0][0]
    rows, masses = np.log(np.array(points, dtype=np.float64)).T
    return float(np.exp(np.interp(np.log(num_rows), rows, masses)))


def pooling_variance(table: TableStatistics) -> float:
    """Return the variance of a table's keys a bag: that of the log-normal with its mean and 99th percentile."""
    if table.pooling_p99 <= table.pooling_mean or not table.pooling_mean:
        return 0.0
    return float(table.pooling_mean**2 * np.expm1(log_normal_sigma(table.pooling_mean, p99=table.pooling_p99) ** 2))


def log_normal_sigma(mean: float, *, p99: float) -> float:
    """Return the sigma of the log-normal with this mean, more than 0, and this 99th percentile, above it.

    A percentile that no log-normal of that mean has counts as that of the widest one, of sigma 2.3.
    """
    return float(_Z_P99 - np.sqrt(max(0.0, _Z_P99**2 - 2 * np.log(p99 / mean))))


@dataclass(frozen=True)
class _Use:
    """How one net uses a table in a mean request."""

    features: float
    bags: float


def _use_of(table: TableStatistics, net: Net, candidates_mean: float) -> _Use:
    """Return a net's part of a table's features and bags.

    Of a table that both nets use, users' features have one bag a request and items' one a candidate, so the number of
    bags tells how many of its features are items'.
    """
    if table.net == net:
        return _Use(table.num_features, table.bags_per_request)
    if table.net != "both":
        return _Use(0.0, 0.0)
    beyond_one = (table.bags_per_request - table.num_features) / max(candidates_mean - 1, 1e-9)
    items = min(max(beyond_one, 0.0), table.num_features)
    users = table.num_features - items
    of_users = min(users, table.bags_per_request)
    return _Use(users, of_users) if net == "user" else _Use(items, table.bags_per_request - of_users)


def _summed(
    tables: list[TableStatistics], shares: PerShard, shards: npt.NDArray[np.int64], plan: ShardPlan, *, net: Net,
    candidates_mean: float,
) -> ShardWork:  # fmt: skip
    distinct = {table.name: table for table in tables}
    uses = {name: _use_of(table, net, candidates_mean) for name, table in distinct.items()}
    variances = {name: pooling_variance(table) for name, table in distinct.items()}
    features = np.array([uses[table.name].features for table in tables])
    bags = np.array([uses[table.name].bags for table in tables])
    all_keys = bags * np.array([table.pooling_mean for table in tables])
    keys = all_keys * shares
    variance = bags * np.array([variances[table.name] for table in tables]) * shares**2 + keys * (1 - shares)
    read_bytes = keys * np.array([row_bytes(table.dim, plan.encoding) for table in tables])
    sum_bytes = SUM_BYTES * np.array([table.dim for table in tables])

    def by_shard(values: PerShard) -> PerShard:
        return np.bincount(shards, weights=values, minlength=plan.num_shards).astype(np.float64)

    is_asked = (by_shard(features) > 0).astype(np.float64)
    return ShardWork(
        request_share=is_asked,
        nets=is_asked,
        lookups=by_shard(features),
        bags=by_shard(bags),
        keys=by_shard(keys),
        keys_variance=by_shard(variance),
        read_bytes=by_shard(read_bytes),
        request_bytes=by_shard(keys * KEY_BYTES + bags * LENGTH_BYTES),
        answer_bytes=by_shard(bags * sum_bytes),
    )
