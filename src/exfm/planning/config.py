"""Settings of a plan: the shards, the load and latency that it must meet, and what servers cost."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from exfm.artifact.plan import Encoding
from exfm.config import Config

CONFIRMING = 5
"""Factor by which the requests that confirm a fleet outnumber those that chose it."""

OTHER_SEED = 1_000_003
"""Offset that gives confirming requests a seed of their own."""

MAX_SIMULATED = 1_000_000
"""Maximum number of requests in one simulation."""

MAX_SHARDS = 1024
"""Maximum number of shards in a plan."""

Strategy = Literal["auto", "singular", "one-shard", "capacity-balanced", "load-balanced", "nsbp"]


class Demand(Config):
    """The load and the latency that a plan's servers must meet."""

    requests_per_s: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Load, in requests a second; 0 to 1e9. 0: not known, so every shard has `min_replicas` servers."""
    p99_ms: Annotated[float, Field(ge=0, le=600_000)] = 0.0
    """Highest 99th percentile of latency that a plan may have, in milliseconds; 0 to 600,000. 0: any."""
    candidates_p99: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """99th percentile of a request's candidates; 0 to 1,000,000. The statistics have their mean. 0: every request has
    the mean."""
    max_utilisation: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Highest share of a server's core that may be busy, which includes the extra CPU time of requests on an idle
    server; more than 0, less than 1. The planner uses less if `p99_ms` needs it."""
    min_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Least number of a shard's servers, and of rankers; 1 to 1,000. With 2, requests survive the loss of one."""
    simulated_requests: Annotated[int, Field(ge=1000, le=MAX_SIMULATED)] = 4000
    """Simulated requests of each latency prediction; 1,000 to 1,000,000. More requests make its 99th percentile more
    certain. A plan's servers are confirmed on five times as many other requests."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of those requests."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.p99_ms and not self.requests_per_s:
            raise ValueError(
                f"p99_ms is {self.p99_ms:g}, but requests_per_s is 0: latency depends on load; set requests_per_s"
            )
        return self

    def confirming(self) -> Self:
        """Return the demand with more and other simulated requests: the ones that chose a fleet are biased for it."""
        num_requests = min(CONFIRMING * self.simulated_requests, MAX_SIMULATED)
        return self.model_copy(update={"simulated_requests": num_requests, "seed": self.seed + OTHER_SEED})


class Prices(Config):
    """The cost of a pod, in any currency and for any period: plans depend on the ratios only."""

    core: Annotated[float, Field(ge=0)] = 1.0
    """Price of a core. Every server is one event loop, so every pod has one core."""
    gib: Annotated[float, Field(ge=0)] = 0.125
    """Price of a GiB (2**30 bytes) of memory."""
    overhead_gib: Annotated[float, Field(ge=0, le=1024)] = 0.85
    """Memory that a pod requests beside its tables, in GiB (2**30 bytes); 0 to 1,024. See `overhead_mib` of a
    deployment's rankers and shards."""


class ShardingConfig(Config):
    """How tables are placed, and on how many shards of what size."""

    removed: ClassVar[Mapping[str, str]] = {
        "split_rows": "tables that are larger than a shard are split by rows; leave it out, or raise shard_memory_gib",
    }

    strategy: Strategy = "capacity-balanced"
    """How tables are placed on shards: all on one (`singular`, in the ranker; `one-shard`), balanced by bytes
    (`capacity-balanced`, `nsbp`: each shard of one net) or by load (`load-balanced`), or at the least cost that meets
    `demand` (`auto`). docs/planning.md says more."""
    num_shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)] = 2
    """Embedding shards of the strategies that balance; 1 to 1,024. The others choose their own number."""
    shard_memory_gib: Annotated[float, Field(ge=2**-24, le=4096)] = 4.0
    """Table bytes that one shard may hold, in GiB (2**30 bytes); 2**-24 (64 B, the least slice) to 4,096."""
    encoding: Encoding = "int8"
    """How tables are stored and served: `fp32`, 4 bytes a number; `fp16`, 2; `int8`, 1, and 4 more a row for its scale
    and bias. A shard adds rows up in fp32, whatever the encoding."""
    demand: Demand = Demand()
    prices: Prices = Prices()
    replan_tolerance: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share by which a plan that follows an old one may be worse than a new one, to move fewer bytes; 0 to 1. Worse:
    the fullest (or busiest) shard has more, or for `auto` the cost is higher."""

    @property
    def capacity_bytes(self) -> int:
        """Return the maximum size of the tables on one shard."""
        return int(self.shard_memory_gib * 2**30)
