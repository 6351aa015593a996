"""What `exfm bench serving` measures: which models, ways of serving, requests and loads."""

from itertools import pairwise, product
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from exfm.artifact.answers import SumsType
from exfm.bench.serving.models import ModelKind, NetworkKind, scaled
from exfm.bench.workload import GeneratedModel
from exfm.config import Config
from exfm.models.config import Precision
from exfm.serving.config import LocalTablesMib

ShardedBy = Literal["one-shard", "capacity-balanced", "load-balanced", "nsbp"]

Load = Annotated[float, Field(ge=0, lt=1)]

Requests = Annotated[int, Field(ge=2, le=100_000)]

MAX_SHARDS = 64

_NO_CACHE = "rankers keep no items, so items need not come again; leave it out, or set local_tables_mib"


class Way(Config):
    """A way of serving with shards."""

    strategy: ShardedBy = "load-balanced"
    """Of the planner; `one-shard` has one shard, whatever `num_shards` says."""
    num_shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)] = 2
    """Shards, 1 to 64, each a process."""
    sums: SumsType = "fp32"
    """How they travel back."""
    local_tables_mib: LocalTablesMib = 0
    """Of items' tables that the ranker holds itself, in MiB; 0: none."""

    def __str__(self) -> str:
        """Return its name in tables."""
        shards = "1 shard" if self.num_shards == 1 else f"{self.num_shards} shards, {self.strategy}"
        half = ", fp16 sums" if self.sums == "fp16" else ""
        local = f", {self.local_tables_mib} MiB in the ranker" if self.local_tables_mib else ""
        return f"{shards}{half}{local}"

    def distinct(self) -> Self:
        """Return the same way, named alike: with one shard all strategies are one."""
        is_one = self.strategy == "one-shard" or self.num_shards == 1
        return self.model_copy(update={"strategy": "one-shard", "num_shards": 1}) if is_one else self

    def placement(self) -> "Way":
        """Return the way that has its tables placed alike: for all else its default."""
        return Way(strategy=self.strategy, num_shards=self.num_shards)


class Case(Config):
    """One model under one kind of requests, served in every way that the lists below name."""

    removed = {
        "transports": "rankers reach shards by streams; leave it out",
        "cache_mib": _NO_CACHE,
        "distinct_items": _NO_CACHE,
        "scheduling_policies": "shards run as the kernel's default lets them; leave it out",
    }

    model: ModelKind = "drm1"
    candidates: Annotated[int, Field(ge=1, le=10_000)] = 512
    """Of a request, 1 to 10,000."""
    loads: Annotated[tuple[Load, ...], Field(min_length=1)] = (0.0,)
    """0: closed loop, one request at a time. Else an open loop at this share of what the unsharded server can bear, up
    to 1: requests are due whether others were answered or not, and are timed from when they are due."""
    strategies: Annotated[tuple[ShardedBy, ...], Field(min_length=1)] = ("load-balanced",)
    num_shards: Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_SHARDS)], ...], Field(min_length=1)] = (2,)
    """Shards, 1 to 64."""
    sums: Annotated[tuple[SumsType, ...], Field(min_length=1)] = ("fp32",)
    local_tables_mib: Annotated[tuple[LocalTablesMib, ...], Field(min_length=1)] = (0,)
    """Of items' tables that the ranker holds itself, in MiB, 0 to 1,048,576."""
    requests: Requests = 105
    """Of a server in a block, 2 to 100,000, rounded up to a multiple of `turns`; a 99th percentile wants 100."""

    def ways(self) -> list[Way]:
        """Return the different ones of all combinations."""
        lists = {
            "strategy": self.strategies,
            "num_shards": self.num_shards,
            "sums": self.sums,
            "local_tables_mib": self.local_tables_mib,
        }
        ways = [Way.model_validate(dict(zip(lists, one, strict=True))) for one in product(*lists.values())]
        return list(dict.fromkeys(way.distinct() for way in ways))


class Sweep(Config):
    """Tables of more and more rows, asked the same."""

    rows: tuple[Annotated[int, Field(ge=16, le=2**31)], ...] = (10_000, 300_000, 10_000_000)
    """Of each table, 16 to 2**31, rising; the first is what others are compared with. Empty: no sweep."""
    num_tables: Annotated[int, Field(ge=1, le=1_000)] = 4
    """All items', 1 to 1,000; of 10 million rows, four take 1.4 GB in int8."""
    dim: Annotated[int, Field(ge=4, le=1_024, multiple_of=4)] = 32
    """Numbers a row, a multiple of 4, 4 to 1,024."""
    candidates: Annotated[int, Field(ge=1, le=10_000)] = 512
    """Of a request, 1 to 10,000: so many rows are read of each table."""
    requests: Requests = 49
    """Of a server in a block, 2 to 100,000, rounded up to a multiple of `turns`."""


class Memory(Config):
    """Requests to two shards, while the memory of all servers is read."""

    requests: Annotated[int, Field(ge=0, le=100_000_000)] = 100_000
    """Up to 100,000,000, rounded up to a multiple of 50; 0: none. 10 B for each of 100,000 are 1 MB."""
    candidates: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Of a request, 1 to 10,000, of the sweep's models."""


class Peers(Config):
    """Other servers of the same model, one request at a time."""

    model: ModelKind | Literal["none"] = "drm3"
    """`none`: peers are left out."""
    candidates: Annotated[int, Field(ge=1, le=10_000)] = 512
    """Of a request, 1 to 10,000."""
    requests: Requests = 7
    """Of a server in a block, 2 to 100,000, rounded up to a multiple of `turns`. They are slow, and their distance is
    not one of per cents."""
    strategy: ShardedBy = "nsbp"
    """Of the shards beside them: two, or with `one-shard` one."""
    sums: SumsType = "fp16"
    """How these shards' sums travel."""
    mlserver: str = ""
    """Folder of a virtual environment with mlserver, torch and safetensors, whose dependencies are not exfm's; empty:
    MLServer is left out. By default MLServer 1.7 runs a worker that does not start with uvloop 0.22 or later."""

    def way(self) -> Way:
        """Return how exfm's shards serve; the ranker holds none of their tables, whose bytes would count twice."""
        return Way(strategy=self.strategy, sums=self.sums).distinct()


class ServingBenchConfig(Config):
    """All that is measured."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of models, requests, arrivals and the order of blocks."""
    blocks: Annotated[int, Field(ge=6, le=10_000)] = 25
    """Times that each server is measured under each load, 6 to 10,000; less than six of one start give no 95 %
    interval. Four times as many, of as many times the starts, halve the intervals."""
    starts: Annotated[int, Field(ge=1, le=1_000)] = 10
    """Times that servers of a case, and of the sweep, are started anew, 1 to 1,000 and no more than blocks, which are
    spread over them: where their memory lies is a start's chance, and fewer than five resolve no target. Two servers of
    one kind had median ratios of 0.968 to 1.007 in 18 starts (2 vCPU of an Intel Xeon, 2026-11). A start takes some
    20 s."""
    turns: Annotated[int, Field(ge=1, le=1_000)] = 7
    """Parts that a block's requests come in, 1 to 1,000; in each the servers come in another order, so that a moment in
    which the machine is slow is not one server's. With 7 parts of 3 requests two servers of one kind differed by 0.5 %
    (P50) and 1.1 % (P99) in 52 blocks, with 2 of 11 by 1.2 and 3.5 % in 40 (2 vCPU of an AMD EPYC, 2026-11)."""
    warmup: Annotated[int, Field(ge=0, le=1_000)] = 1
    """Requests before each part that do not count, 0 to 1,000: caches then hold another server's data. After one,
    requests of a part took as long as each other, to 0.5 % (2026-11)."""
    distinct_requests: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Requests that differ, 1 to 10,000; they come again in turn."""
    threads: Annotated[int, Field(ge=0, le=2)] = 0
    """Of torch in each server that clients ask, 1 or 2. 0: those with which the unsharded server answers a case's
    requests fastest, one at a time; found before, which takes a minute."""
    bytes_factor: Annotated[float, Field(gt=0, le=1)] = 0.0025
    """Bytes of tables, as a share of the 140 or 200 GiB (fp32) of the large models; more than 0, at most 1. By default
    512 MiB, or 136 in int8, which is more than most caches hold."""
    dim_factor: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Numbers a row, as a share of the 32, 64 or 128 of the large models; more than 0, at most 1."""
    network: NetworkKind = "mlperf"
    """Dense layers. `mlperf`: 3 crosses of rank 512 and 1024-1024-512-256 units, which MLPerf has beside 26 tables of
    128 numbers a row: 16 million multiplications a candidate of drm3. `small`: 2 of rank 32 and 128-64 units, a
    twentieth of that, so that nearly all is tables and what sharding costs stands out; so are those of the sweep."""
    dense_precision: Precision = "fp32"
    """In which all of exfm's rankers compute these layers, unsharded or not; other servers do it in fp32."""
    ways_at_once: Annotated[int, Field(ge=1, le=64)] = 4
    """Ways of serving whose servers run at the same time, 1 to 64, beside two unsharded servers; more are measured one
    after another. A process takes some 400 MiB, and there is one for each shard, and a ranker."""
    cases: tuple[Case, ...] = (Case(model="drm3", strategies=("nsbp",), sums=("fp16",), local_tables_mib=(0, 16)),)
    """By default what fits into half an hour: of the three models, the one with the least work beside its tables, 143
    ms of CPU time for 512 candidates; of drm1 it is 372 (2 vCPU of an Intel Xeon, 2026-11)."""
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
        if not (self.cases or self.sweep.rows or self.memory.requests or self.peers.model != "none"):
            raise ValueError("cases, sweep, memory and peers are all left out: nothing would be measured")
        return self
