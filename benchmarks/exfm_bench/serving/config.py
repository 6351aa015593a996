"""What `exfm bench serving` measures: which models, variants, requests and loads."""

from itertools import pairwise, product
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from exfm.config import Config
from exfm.models.config import LocalTablesMib, PooledPrecision, Precision
from exfm_bench.serving.models import ModelKind, NetworkKind, scaled
from exfm_bench.workload import GeneratedModel

ShardedBy = Literal["one-shard", "capacity-balanced", "load-balanced", "nsbp"]

Load = Annotated[float, Field(ge=0, lt=1)]

Requests = Annotated[int, Field(ge=2, le=100_000)]

MAX_SHARDS = 64

_NO_CACHE = "rankers keep no items, so items need not come again; leave it out, or set local_tables_mib"

_RENAMED = {"sums": "it is called pooled_precision; rename it"}


class Variant(Config):
    """A variant of sharded serving."""

    strategy: ShardedBy = "load-balanced"
    """Strategy of the planner; `one-shard` has one shard, whatever `num_shards` says."""
    num_shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)] = 2
    """Shards, 1 to 64, each a process."""
    pooled_precision: PooledPrecision = "fp32"
    """Precision of pooled embeddings in the shards' answers."""
    local_tables_mib: LocalTablesMib = 0
    """Items' tables that the ranker holds itself, in MiB; 0: none."""

    def __str__(self) -> str:
        """Return its name in tables."""
        shards = "1 shard" if self.num_shards == 1 else f"{self.num_shards} shards, {self.strategy}"
        half = ", fp16 pooled" if self.pooled_precision == "fp16" else ""
        local = f", {self.local_tables_mib} MiB in the ranker" if self.local_tables_mib else ""
        return f"{shards}{half}{local}"

    def distinct(self) -> Self:
        """Return the variant with one name for all strategies if it has one shard, because they are then the same."""
        is_one = self.strategy == "one-shard" or self.num_shards == 1
        return self.model_copy(update={"strategy": "one-shard", "num_shards": 1}) if is_one else self

    def placement(self) -> "Variant":
        """Return the variant with the same placement of tables and all other settings at their defaults."""
        return Variant(strategy=self.strategy, num_shards=self.num_shards)


class Scenario(Config):
    """One model under one kind of requests, served in every combination of the lists below."""

    removed = {
        **_RENAMED,
        "transports": "rankers reach shards by streams; leave it out",
        "cache_mib": _NO_CACHE,
        "distinct_items": _NO_CACHE,
        "scheduling_policies": "shards run as the kernel's default lets them; leave it out",
    }

    model: ModelKind = "drm1"
    candidates: Annotated[int, Field(ge=1, le=10_000)] = 512
    """Candidates of a request, 1 to 10,000."""
    loads: Annotated[tuple[Load, ...], Field(min_length=1)] = (0.0,)
    """Each a share of the unsharded server's capacity, below 1, in an open loop: requests are sent when due, and timed
    from then. 0: a closed loop, one request at a time."""
    strategies: Annotated[tuple[ShardedBy, ...], Field(min_length=1)] = ("load-balanced",)
    num_shards: Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_SHARDS)], ...], Field(min_length=1)] = (2,)
    """Shards, 1 to 64."""
    pooled_precision: Annotated[tuple[PooledPrecision, ...], Field(min_length=1)] = ("fp32",)
    local_tables_mib: Annotated[tuple[LocalTablesMib, ...], Field(min_length=1)] = (0,)
    """Items' tables that the ranker holds itself, in MiB, 0 to 1,048,576; 0: none."""
    requests: Requests = 105
    """Requests to a server in a block, 2 to 100,000, rounded up to a multiple of `turns`; a P99 needs 100."""

    def variants(self) -> list[Variant]:
        """Return the different ones of all combinations."""
        lists = {
            "strategy": self.strategies,
            "num_shards": self.num_shards,
            "pooled_precision": self.pooled_precision,
            "local_tables_mib": self.local_tables_mib,
        }
        variants = [Variant.model_validate(dict(zip(lists, one, strict=True))) for one in product(*lists.values())]
        return list(dict.fromkeys(variant.distinct() for variant in variants))


class Sweep(Config):
    """Tables of more and more rows under the same requests."""

    rows: tuple[Annotated[int, Field(ge=16, le=2**31)], ...] = (10_000, 300_000, 10_000_000)
    """Rows of each table, 16 to 2**31, rising; all others are compared with the first. Empty: no sweep."""
    num_tables: Annotated[int, Field(ge=1, le=1_000)] = 4
    """Tables of items, 1 to 1,000."""
    dim: Annotated[int, Field(ge=4, le=1_024, multiple_of=4)] = 32
    """Numbers a row, a multiple of 4, 4 to 1,024."""
    candidates: Annotated[int, Field(ge=1, le=10_000)] = 512
    """Candidates of a request, 1 to 10,000; each reads one row of each table."""
    requests: Requests = 49
    """Requests to a server in a block, 2 to 100,000, rounded up to a multiple of `turns`."""


class Memory(Config):
    """Requests to two shards, while the memory of all servers is read."""

    requests: Annotated[int, Field(ge=0, le=100_000_000)] = 100_000
    """Requests, up to 100,000,000, rounded up to a multiple of 50; 0: memory is not measured."""
    candidates: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Candidates of a request, 1 to 10,000; the model is like those of the sweep."""


class Peers(Config):
    """Other servers of the same model, one request at a time."""

    removed = _RENAMED

    model: ModelKind | Literal["none"] = "drm3"
    """`none`: peers are left out."""
    candidates: Annotated[int, Field(ge=1, le=10_000)] = 512
    """Candidates of a request, 1 to 10,000."""
    requests: Requests = 7
    """Requests to a server in a block, 2 to 100,000, rounded up to a multiple of `turns`."""
    strategy: ShardedBy = "nsbp"
    """Strategy of exfm's shards beside the peers: two shards, or with `one-shard` one."""
    pooled_precision: PooledPrecision = "fp16"
    """Precision of pooled embeddings in these shards' answers."""
    mlserver: str = ""
    """Folder of a virtual environment with mlserver, torch, safetensors and uvloop<0.22. Empty: no MLServer."""

    def variant(self) -> Variant:
        """Return exfm's sharded variant; its ranker holds no tables, because their bytes would count twice."""
        return Variant(strategy=self.strategy, pooled_precision=self.pooled_precision).distinct()


class ServingBenchConfig(Config):
    """All that is measured."""

    removed = {"cases": "it is called scenarios; rename it", "ways_at_once": "it is called variants_at_once; rename it"}

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of models, requests, arrivals and the order of blocks."""
    blocks: Annotated[int, Field(ge=6, le=10_000)] = 25
    """Times that each server is measured under each load, 6 to 10,000. Fewer than six of one start give no 95 %
    interval; four times as many, over four times the starts, halve it."""
    starts: Annotated[int, Field(ge=1, le=1_000)] = 10
    """Times that the servers of a scenario, and of the sweep, are started anew, 1 to 1,000; the blocks are spread over
    them. No more than blocks; fewer than five resolve no target."""
    turns: Annotated[int, Field(ge=1, le=1_000)] = 7
    """Parts of a block's requests, 1 to 1,000. Each part takes the servers in another order, so that a slow moment of
    the machine does not hit one server."""
    warmup: Annotated[int, Field(ge=0, le=1_000)] = 1
    """Requests before each part that do not count, 0 to 1,000: caches then hold another server's data."""
    distinct_requests: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Requests that differ, 1 to 10,000; they are sent in turn."""
    threads: Annotated[int, Field(ge=0, le=2)] = 0
    """Threads of torch in each server that gets requests, 1 or 2. 0: the number with which the unsharded server is
    fastest in a closed loop, measured before each scenario in about a minute."""
    bytes_factor: Annotated[float, Field(gt=0, le=1)] = 0.0025
    """Bytes of tables, as a share of the 140 or 200 GiB (fp32) of the large models; more than 0, at most 1."""
    dim_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Numbers a row, as a share of the 32, 64 or 128 of the large models; more than 0, at most 1."""
    network: NetworkKind = "mlperf"
    """Dense layers. `mlperf`: 3 crosses of rank 512 and 1024-1024-512-256 units, as MLPerf's DLRM-DCNv2. `small`: 2 of
    rank 32 and 128-64 units, so that what sharding costs stands out; the sweep has small ones."""
    dense_precision: Precision = "fp32"
    """Precision of these layers in all of exfm's rankers, unsharded or not; other servers compute in fp32."""
    variants_at_once: Annotated[int, Field(ge=1, le=64)] = 4
    """Variants whose servers run at the same time, 1 to 64, beside two unsharded servers; the others follow. Each has a
    process for the ranker and for each shard."""
    scenarios: tuple[Scenario, ...] = (
        Scenario(model="drm3", strategies=("nsbp",), pooled_precision=("fp16",), local_tables_mib=(0, 16)),
    )
    """Models and requests that are measured, one after another. Empty: none."""
    sweep: Sweep = Sweep()
    memory: Memory = Memory()
    peers: Peers = Peers()

    def blocks_of_starts(self) -> list[range]:
        """Return the numbers of the blocks for which servers are started, for one start after another."""
        num_starts = min(self.starts, self.blocks)
        ends = [self.blocks * start // num_starts for start in range(num_starts + 1)]
        return [range(first, end) for first, end in pairwise(ends)]

    def model(self, kind: ModelKind) -> GeneratedModel:
        """Return the model of a kind that is served."""
        return scaled(
            kind, bytes_factor=self.bytes_factor, dim_factor=self.dim_factor, network=self.network, seed=self.seed
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.sweep.rows) != sorted(set(self.sweep.rows)):
            raise ValueError(f"sweep.rows {self.sweep.rows} do not rise")
        if not (self.scenarios or self.sweep.rows or self.memory.requests or self.peers.model != "none"):
            raise ValueError("scenarios, sweep, memory and peers are all left out: nothing would be measured")
        return self
