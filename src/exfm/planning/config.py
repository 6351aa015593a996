"""What a plan is made for: shards of which size, a load and a latency, and what servers cost."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from exfm.artifact.plan import Encoding
from exfm.config import Config

CONFIRMING = 5
"""Times the simulated requests that chosen servers are confirmed on. A plan chosen on 4,000 promised 57 ms; on 20,000
others it took 67."""

OTHER_SEED = 1_000_003
"""Added to a seed for the confirming requests: one that nobody else takes."""

MAX_SIMULATED = 1_000_000
"""Requests of one simulation."""

MAX_SHARDS = 1024
"""Of a plan."""

Strategy = Literal["auto", "singular", "one-shard", "capacity-balanced", "load-balanced", "nsbp"]


class Demand(Config):
    """What a plan's servers must do."""

    requests_per_s: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Requests that come in, a second; 0: not known, and every shard has `min_replicas` servers."""
    p99_ms: Annotated[float, Field(ge=0, le=600_000)] = 0.0
    """99th percentile of a request's latency, in milliseconds, that a plan may have at most; 0: any."""
    candidates_p99: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """99th percentile of a request's candidates, whose mean the statistics tell, up to 1,000,000; 0: every request has
    the mean."""
    max_utilisation: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Of a server's core, at most, with what a request takes more at a server whose last one is long ago; more than
    0, less than 1. Less is taken where `p99_ms` wants it."""
    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Servers of a shard, and rankers, at least; 1 to 1000. 2 outlive the loss of one."""
    simulated_requests: Annotated[int, Field(ge=1000, le=MAX_SIMULATED)] = 4000
    """That each prediction of a latency is made of, 1000 to 1,000,000; the servers that a plan takes are confirmed on
    five times as many others. The more, the surer its 99th percentile."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of those requests."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.p99_ms and not self.requests_per_s:
            raise ValueError(f"p99_ms {self.p99_ms:g} says nothing without a load; set requests_per_s")
        return self

    def confirming(self) -> Self:
        """Return the demand with other simulated requests, and more of them: those that chose servers flatter them."""
        num_requests = min(CONFIRMING * self.simulated_requests, MAX_SIMULATED)
        return self.model_copy(update={"simulated_requests": num_requests, "seed": self.seed + OTHER_SEED})


class Prices(Config):
    """What a pod costs, in any currency and for any time: it is the ratio that decides between plans."""

    core: Annotated[float, Field(ge=0)] = 1.0
    """A core. Every server is one event loop, so every pod has one."""
    gib: Annotated[float, Field(ge=0)] = 0.125
    """A GiB (2**30 bytes) of memory. By default 8 GiB cost as much as a core: an estimate."""
    overhead_gib: Annotated[float, Field(ge=0, le=1024)] = 0.7
    """Memory of a pod beside its tables, in GiB, up to 1024. A server of the demo takes 690 MiB (2026-11)."""


class ShardingConfig(Config):
    """Where tables go, on how many shards of what size."""

    strategy: Strategy = "capacity-balanced"
    """`singular`: all in the ranker's own server, priced and simulated so; `exfm deploy` gives that one shard servers
    of its own as yet, which is `one-shard`. `one-shard`: all on one shard. `capacity-balanced`: the fullest shard holds
    as few bytes as can be. `load-balanced`: the busiest shard works as little as can be. `nsbp` (net-specific bin
    packing): as capacity-balanced, but a shard's tables are of one net. `auto`: what costs least and meets `demand`,
    with its own number of shards, replicas from load, and copies of hot rows where they pay."""
    num_shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)] = 2
    """Embedding shards, 1 to 1024, of the strategies that balance; the others choose their own number."""
    shard_memory_gib: Annotated[float, Field(ge=2**-24, le=4096)] = 4.0
    """Table bytes that one shard may hold, in GiB (2**30 bytes); 2**-24 (64 B, which the least slice takes) to 4096."""
    encoding: Encoding = "int8"
    """How tables are kept and served: `fp32`, 4 bytes a number; `fp16`, 2; `int8`, 1, and 4 more a row for its scale
    and bias. Sums are fp32 always. On MovieLens-100K's held-out examples int8 changes NE by 0.004 % or less."""
    split_rows: bool = True
    """Whether a table over a shard's memory is split by rows, which are ranges of keys; false refuses it."""
    demand: Demand = Demand()
    prices: Prices = Prices()
    replan_tolerance: Annotated[float, Field(ge=0, le=1)] = 0.05
    """By how much an old plan's successor may be worse than a plan from nothing, to move fewer bytes: the share by
    which its fullest (or busiest) shard, or its cost for `auto`, may be above; 0 to 1."""

    @property
    def capacity_bytes(self) -> int:
        """Return the table bytes that one shard may hold."""
        return int(self.shard_memory_gib * 2**30)
