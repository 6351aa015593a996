"""The cost of work: CPU time of rankers and shards, and network latency.

Legend: S shards.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from exfm.artifact.stores import is_local, read_file
from exfm.config import Config, parse_yaml, read_yaml
from exfm.planning.arrays import Floats
from exfm.planning.cost_model.work import ShardWork

Price = Annotated[float, Field(ge=0)]


class CallPrices(Config):
    """CPU time of calls between a ranker and shards, at one end: at the ranker or at a shard."""

    call_us: Price
    """CPU time of a call, in microseconds, 0 or more: message, event loop and kernel."""
    net_us: Price
    """CPU time of the tensors of one net in a call, in microseconds, 0 or more."""
    lookup_us: Price
    """CPU time of one feature's lookup in one slice of its table, in microseconds, 0 or more, without its bags."""
    bag_ns: Price
    """CPU time of a bag, in nanoseconds, 0 or more."""
    key_ns: Price
    """CPU time of a key, in nanoseconds, 0 or more; at a shard, finding the row and loading it into the cache."""
    byte_ns: Price
    """CPU time to send or receive a byte of keys, lengths or pooled embeddings, in nanoseconds, 0 or more."""

    def cpu_s(
        self,
        *,
        calls: Floats | float,
        nets: Floats,
        lookups: Floats,
        bags: Floats,
        keys: Floats,
        message_bytes: Floats,
    ) -> Floats:
        """Return the CPU time of this work; numpy broadcasts the arguments' shapes."""
        per_call_us = calls * self.call_us + nets * self.net_us + lookups * self.lookup_us
        in_call_ns = bags * self.bag_ns + keys * self.key_ns + message_bytes * self.byte_ns
        return per_call_us * 1e-6 + in_call_ns * 1e-9


class CostModel(Config):
    """Service times of rankers and shards on one core, and latency of the network between them.

    CPU times are those of a warm server, which gets requests often. The simulator adds the extra time of servers with
    cold caches; the methods of this class do not.
    """

    removed: ClassVar[Mapping[str, str]] = {
        "beside_share": "it changed no prediction; leave it out",
        "calls": "a ranker makes one call to each shard; leave it out",
    }

    measured: str
    """When, on what machine and how the costs were measured: a sentence for people."""
    ranker_request_us: Price
    """CPU time of a request without calls and candidates, in microseconds, 0 or more."""
    ranker_candidate_us: Price
    """CPU time of a candidate, in microseconds, 0 or more: its features and the measured model's dense network."""
    ranker: CallPrices
    """CPU time of calls at the ranker, for all shards together."""
    shard: CallPrices
    """CPU time of calls at a shard."""
    read_byte_ns: Price
    """CPU time of a shard to read one byte of a row, in nanoseconds, 0 or more."""
    ranker_before_share: Annotated[float, Field(ge=0, le=1)]
    """Share of a ranker's CPU time that it spends before its calls are sent, 0 to 1; it spends the rest afterwards."""
    network_latency_us: Price
    """One-way latency of an empty message, from kernel to program, in microseconds, 0 or more."""
    network_byte_ns: Price
    """Transfer time of a byte, in nanoseconds, 0 or more; 0.8 means 10 Gbit/s."""
    spread: Annotated[float, Field(ge=0, le=5)]
    """Standard deviation of a service time over its mean, for equal work, 0 to 5. 0: service times do not vary."""
    ranker_cold_us: Price = 0.0
    """Extra CPU time of a request at a ranker with cold caches, in microseconds, 0 or more."""
    shard_cold_us: Price = 0.0
    """Extra CPU time of a call at a shard with cold caches, in microseconds, 0 or more."""
    cooling_ms: Annotated[float, Field(gt=0, le=10_000)] = 10.0
    """Time constant of cooling caches: a server without a request for this long is 63 % cold (1 - 1/e);
    in milliseconds, above 0, up to 10,000."""

    @classmethod
    def read(cls, uri: str) -> "CostModel":
        """Return the costs in a YAML file, by path or URL; for an empty string, the costs of exfm's own servers.

        Raises: ConfigError if the file is missing or malformed; StorageError if a URL cannot be read.
        """
        if not uri:
            return DEFAULT_COSTS
        data = read_yaml(Path(uri)) if is_local(uri) else parse_yaml(read_file(uri), source=uri)
        return cls.parse(data, source=uri)

    def shard_cpu_s(self, work: ShardWork) -> Floats:
        """Return each shard's CPU time in a mean request; shape [S]."""
        return self._calls_cpu_s(work, self.shard) + work.read_bytes * self.read_byte_ns * 1e-9

    def ranker_cpu_s(self, work: ShardWork, candidates: float) -> float:
        """Return a ranker's CPU time for a request with this number of candidates and this work for its shards."""
        own_us = self.ranker_request_us + candidates * self.ranker_candidate_us
        return own_us * 1e-6 + float(self._calls_cpu_s(work, self.ranker).sum())

    def _calls_cpu_s(self, work: ShardWork, prices: CallPrices) -> Floats:
        return prices.cpu_s(
            calls=work.request_share,
            nets=work.nets,
            lookups=work.lookups,
            bags=work.bags,
            keys=work.keys,
            message_bytes=work.request_bytes + work.answer_bytes,
        )


DEFAULT_COSTS = CostModel(
    measured="2026-11-25, exfm's servers on 2 cores of an Intel Xeon at real-time priority beside other work, 12 loads "
    "of 2 plans of the benchmark's model, by `exfm bench simulator`; the network is assumed to have 10 Gbit/s",
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
)
"""Costs of exfm's own servers, for use until those of another model are measured."""
