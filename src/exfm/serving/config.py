"""Settings of the servers."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from exfm.artifact.answers import AnswerForm
from exfm.config import Config
from exfm.models.config import Precision

Port = Annotated[int, Field(ge=0, le=65_535)]


def _check_ports(address: str) -> str:
    if not all(0 < int(port) < 2**16 for port in re.findall(r":([0-9]+)", address)):
        raise ValueError(f"{address}: a port is 1 to 65,535")
    return address


Address = Annotated[
    str,
    StringConstraints(pattern=r"^(dns://[^\s:,/]+(:[0-9]{1,5})?/)?[^\s:,/]+:[0-9]{1,5}$"),
    AfterValidator(_check_ports),
]
"""host:port; all addresses that DNS has for the host are servers of one shard (a headless Service). In gRPC's form
dns://SERVER:PORT/host:port, that DNS server is asked instead of the system's."""


Transport = Literal["grpc", "stream"]
"""From rankers to shards."""


Device = Literal["cpu", "cuda"]


SchedulingPolicy = Literal["other", "batch"]
"""Linux's SCHED_OTHER or SCHED_BATCH."""


LocalTablesMib = Annotated[int, Field(ge=0, le=1_048_576)]
"""MiB (2**20 bytes) of tables that a ranker holds itself; 0: none."""


CacheMib = Annotated[int, Field(ge=0, le=65_536)]
"""MiB (2**20 bytes) of items that a ranker has met; 0: none is kept."""


class ServerConfig(Config):
    """Where a server listens, and how much a request may ask of it."""

    host: Annotated[str, StringConstraints(min_length=1)] = "127.0.0.1"
    """Address that REST and gRPC bind to. Nothing but the line between ranker and shards (`--tls`) can be encrypted and
    authenticated, so the default is loopback; 0.0.0.0 in a pod, behind a network policy."""
    http_port: Port = 8080
    """TCP port of REST, health and metrics; 0 takes a free one."""
    grpc_port: Port = 8081
    """TCP port of gRPC; 0 takes a free one."""
    default_deadline_ms: Annotated[int, Field(ge=1, le=600_000)] = 1_000
    """Time for a request that brings no deadline of its own, in milliseconds; 1 to 600,000."""
    max_candidates: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Items, and users, of one request; 1 to 1,000,000."""
    max_ids: Annotated[int, Field(ge=1, le=100_000_000)] = 262_144
    """Values of all inputs of one request together; 1 to 100,000,000."""
    max_message_bytes: Annotated[int, Field(ge=1_024, le=2**31 - 1)] = 64 * 2**20
    """Size of one gRPC message or REST body, in bytes; 1 KiB to 2 GiB."""
    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Requests taken and not answered yet, 1 to 10,000; one more is refused at once (RESOURCE_EXHAUSTED, 429). At three
    times its capacity (512 candidates, gRPC, deadline 1 s, two busy cores, 2026-11) a ranker answered twice as many in
    time with 32 as without a bound, half of them within 0.3 s instead of 0.5 s."""
    device: Device = "cpu"
    """Where dense layers (a ranker's) and tables (a shard's, and a ranker's that holds them itself) lie: `cuda` is one
    NVIDIA GPU, whose memory must hold them. It has never been run: there was no GPU to try it on (2026-11)."""
    max_batch_candidates: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Candidates of several requests that are computed by one call, a ranker's dense layers or a shard's lookups, 1 to
    1,000,000; a request of more goes alone. 0, the default: each goes alone. While a batch is computed the server does
    nothing else, on a CPU for some 10 to 150 us a candidate in a ranker (`shard_budget`). It is for GPUs, where
    launches and copies cost more than multiplications, and was never run on one. On a CPU, eight requests of 64
    candidates at a time (two shards, streams, two busy cores, 2026-11), a ranker's throughput and P50 as ratios to one
    without were 1.02 and 1.01 with a wait of 0 and 1.16 and 0.87 with one of 10,000 us (1.2 and 4.9 requests a batch)
    for 8 small tables, 1.02 and 1.01, and 1.02 and 0.97 (1.0 and 2.2) for a model like DRM1; those of a second ranker
    without 1.00 to 1.03 and 0.96 to 1.03. Dense layers of eight requests of 512 took 1.1 to 1.2 times as long: they no
    longer fit the caches. A shard's lookups for eight requests took 0.9 to 1.0 times the CPU time with 64 candidates,
    and 1.9 to 2.6 times with 512 (39 and 52 tables, in int8)."""
    batch_wait_us: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Time for which a request waits for others that are under way, to be computed with them, in microseconds, 0 to
    10,000; the server's thread is busy meanwhile. 0, the default: with those that are there at once, as those are that
    came while others were computed. Whoever is alone never waits, and nobody longer than half of the time that is left.
    A shard waits for those that gRPC begins one after another, some 100 us each; those of streams are there at once.
    Counts with `max_batch_candidates` alone."""
    torch_threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of one tensor operation; 1 to 256. 1, the default, answers most requests a core; more shorten those of
    large dense layers. With 2 on two cores, 512 candidates of a DRM3-like model took 0.55 of the time and 1.03 of the
    CPU time with MLPerf's layers, 0.82 and 1.23 with small ones (Intel Xeon, 2026-11)."""
    drain_s: Annotated[int, Field(ge=0, le=600)] = 10
    """Time for requests under way to end once a server takes no more, or on a stream under a certificate that was
    replaced, in seconds; 0 to 600. 0 breaks them off."""
    lame_duck_s: Annotated[int, Field(ge=0, le=600)] = 0
    """Time after SIGTERM in which a server says that it is not ready but still answers, in seconds; 0 to 600. In a pod,
    the seconds until every client has heard of it: some 10. 0, the default, suits a machine where nobody balances
    load: the server stops at once. A pod's grace period must be longer than this and `drain_s` together."""
    max_connection_age_s: Annotated[int, Field(ge=1, le=86_400)] = 60
    """Age at which a server asks a gRPC connection to be made anew, in seconds; 1 to 86,400. A client looks a name up
    again only then, so this is how long an added replica may wait for its share, and a renewed certificate for its use.
    Calls under way end on the old connection. Where `lame_duck_s` is set, a ranker's should be half of it at most: then
    every client has gone elsewhere when it stops, and a request that meets that moment would fail (CANCELLED)."""


class ShardConfig(ServerConfig):
    """Settings of a shard."""

    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 256
    """As any server's: so that eight rankers may each have their 32 under way; a lookup takes a tenth of a request's
    time."""
    stream_port: Port = 8082
    """TCP port of streams, the faster way for rankers; 0 takes a free one."""
    sums: AnswerForm = "fp32"
    """How sums travel to rankers. `fp32`: as they were added up. `fp16`: rounded to half precision, in half the bytes;
    a sum beyond 65,504 has none, and is an error. `rows`: not at all, but the rows themselves as they are kept, for the
    ranker to add up to the same numbers, wherever they take less: with one id a bag and int8 tables of dim 16 or more,
    under a third. Two shards, 512 candidates, two idle cores (2026-11), CPU time as ratio to one unsharded server,
    by streams and by gRPC: of 257 tables fp32 1.20 and 1.60, fp16 1.16 and 1.35, rows 1.15 and 1.31."""
    scheduling_policy: SchedulingPolicy = "other"
    """How the kernel lets a shard run. `other`, the default: it may preempt who computes on the core that it wakes on.
    `batch` (Linux alone, without privileges): it does not, and waits there for its turn, some milliseconds (estimate).
    It is for shards on the cores of their ranker. 512 candidates, DRM3-like, two shards, streams, two cores of an Intel
    Xeon (2026-11): P99 1.019 [1.002, 1.036] of the unsharded server's with `other`, 1.008 [0.983, 1.033] with `batch`,
    P50 1.016 and 1.015."""
    stream_silence_s: Annotated[int, Field(ge=8, le=600)] = 15
    """Time within which a stream's handshake must end, and a whole frame come then and again, in seconds; 8 to 600. Who
    takes longer is left. Rankers ping every 2 to 6 s; 64 MiB within 15 s are 4.5 MB/s."""

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        if self.sums == "rows" and self.device == "cuda":
            raise ValueError("sums is 'rows', which are taken from the host's memory; set 'fp32' or 'fp16' for cuda")
        return self


class RankerConfig(ServerConfig):
    """Settings of a ranker."""

    removed: ClassVar[Mapping[str, str]] = {
        "trace_folder": "`exfm shard statistics` counts request logs; set log_folder",
        "trace_max_requests": "`exfm shard statistics` counts request logs; set log_max_mib",
        "trace_max_mib": "`exfm shard statistics` counts request logs; set log_max_mib",
        "trace_sampling_rate": "`exfm shard statistics` counts request logs; set log_sampling_rate",
        "trace_seed": "requests are logged at random; leave it out",
        "log_seed": "requests are logged at random; leave it out",
    }

    dense_precision: Precision = "fp32"
    """In which a ranker's dense layers multiply, but for the bottom tower's and the last ones' weights, always in fp32.
    `bf16` wants a CPU that multiplies so (AVX512-BF16 or AMX), `int8` one with VNNI, better AMX. 512 candidates of
    MLPerf's layers, two threads of an AMD EPYC (2026-11), as ratios to fp32: 0.52 and, then by FBGEMM, 0.49, the user
    met once 0.56 and 0.44. int8 rounds all inputs of a layer by one scale, so a candidate that is far off coarsens the
    others' scores. `exfm bench precision` says what both cost a bundle in NE, on MovieLens-100K less than 0.01 %."""
    transport: Transport = "grpc"
    """How shards are reached: `grpc`, at their gRPC ports, where a service mesh or a proxy stands between; `stream`, at
    their stream ports, which takes less CPU time and latency. Both encrypt and authenticate with `--tls`."""
    max_reconnect_backoff_ms: Annotated[int, Field(ge=100, le=60_000)] = 500
    """Longest pause between two attempts to reach a lost shard, in milliseconds; 100 to 60,000. gRPC's own is 120,000:
    a ranker would miss a shard for two minutes after it is back."""
    lookup_attempts: Annotated[int, Field(ge=1, le=5)] = 3
    """Times that a lookup is sent while its shard's servers cannot be reached, all within its deadline; 1 to 5. 1 never
    sends it again."""
    when_shard_fails: Literal["fail", "degrade"] = "fail"
    """What becomes of a request while a shard is away, late or overloaded. `fail`: an error (503, 504 or 429) names the
    shard. `degrade`: it is scored with the bundle's fallback rows in the place of that shard's, and the answer says
    `degraded` and which tables. A shard of another bundle is an error either way."""
    shard_budget: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Share of the time that a request has left for which shards are waited for with `degrade`, between 0 and 1; the
    rest is for scoring: a candidate takes some 10 us of a small model, 150 of one with MLPerf's layers (2026-11)."""
    breaker_failures: Annotated[int, Field(ge=0, le=1_000)] = 5
    """Failures of a shard in a row after which it is not asked for a while, 0 to 1,000; 0 always asks. Fewer would
    take one bad moment for the end; beside a replica that hangs, the others' answers come in between."""
    breaker_pause_ms: Annotated[int, Field(ge=10, le=60_000)] = 1_000
    """That while, in milliseconds, 10 to 60,000. After it one request asks, and waits as long as it may if the shard
    hangs; so one a second and ranker does, and a shard that is back is used within a second."""
    breaker_patience_ms: Annotated[int, Field(ge=0, le=600_000)] = 100
    """Time that a shard must have had for its silence to be a failure, in milliseconds, 0 to 600,000: callers in a
    hurry must not take a shard from all others."""
    hedge_after_ms: Annotated[int, Field(ge=0, le=60_000)] = 0
    """Time after which a lookup is sent once more, and the answer taken that comes first, in milliseconds, 1 to 60,000;
    0, the default, never. It is for shards of several replicas: by streams another one gets it, by gRPC the one whose
    turn it is. Take a time that few lookups take (`exfm_ranker_lookup_seconds`). While none takes as long it costs
    little: P50 and CPU time 1.01 and 1.03 of those without by streams, 1.02 and 1.00 by gRPC, and those of a second
    ranker without 0.99 and 0.97 to 0.98 (64 candidates, two busy cores, 2026-11)."""
    hedge_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of a shard's lookups that may be sent once more, more than 0, at most 1: so much more work shards that are
    slow get at most. What is not needed is saved, for 10 lookups in a row. With one of two servers hanging, four
    clients and 50 ms (two busy cores, 2026-11), by streams 12 of 24 requests were late without, 10 of 49 with 0.1 and
    none of 119 with 0.5; by gRPC 12 of 24, 11 of 34 and 9 of 42."""
    local_tables_mib: LocalTablesMib = 0
    """Memory for whole tables of items, as the bundle encodes them, for which no shard is asked, in MiB (2**20 bytes),
    1 to 1,048,576. 0, the default: none is held. Those of fewest rows are taken, out of the shards' files, which must
    be where the ranker's are. With 4 MiB, 35 of 52 tables, a model like DRM1 got 71 % fewer bytes of sums, and took
    0.78 of the CPU time by gRPC, 0.92 by streams (512 candidates, loopback, before huge pages; chance: 0.97 to 1.07);
    one of 12 small tables with 64 candidates took 1.08. A ranker that holds all tables takes none."""
    cache_mib: CacheMib = 0
    """Memory for items met before, whose embeddings are not asked for again, in MiB (2**20 bytes), 1 to 65,536: 4 B
    a dim of all tables of items, and 48 B. 0, the default: none is kept. An item is met again if all of its ids are the
    same. With 0.86 of 512 items known, a model like DRM1 took 0.87 of the CPU time by gRPC and 0.94 by streams; where
    none is known, 1.05 by streams (loopback, small dense layers; chance: 1.00)."""
    log_folder: str = ""
    """Folder, new or not, in which each start of a ranker logs requests that it answers, ids as they came, for `exfm
    shard statistics` and `exfm ingest log`. In a pod a volume, or a folder below /tmp, which goes with the pod. Empty,
    the default: nothing is logged."""
    log_domain: str = ""
    """Domain of the impressions whose request does not tell it, since the schema's `domain` is no feature of the model,
    or is missing. Without it a model of the former kind is refused."""
    log_sampling_rate: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Probability with which a request is logged; more than 0, at most 1. With 512 candidates, 12 features, two shards
    and two busy cores (2026-11), P50, P99 and the ranker's CPU time were 1.02, 1.11 and 1.02 times those without a log
    with 0.01, and those of a second ranker without one 1.04, 1.09 and 1.02: no difference. With 1 they were 0.97, 1.37
    and 1.36 times (of the second ranker 0.93, 0.94 and 0.95): 1.4 ms of a core a request, which others may miss."""
    log_file_s: Annotated[int, Field(ge=1, le=86_400)] = 60
    """Time after which a file is finished though it is not full (8 MiB), in seconds, 1 to 86,400; what is in an
    unfinished one is lost if the ranker is killed."""
    log_max_mib: Annotated[int, Field(ge=32, le=1_048_576)] = 64
    """Size of the logs of all starts of one host, in MiB (2**20 bytes), 32 to 1,048,576: some 1,200 requests of 512
    candidates with 16 ids. Where there is no more room for a file, no request is logged until files were taken away. A
    pod's /tmp has 256 MiB, and one that fills it is ended."""

    @model_validator(mode="after")
    def _check_device(self) -> Self:
        if self.dense_precision == "int8" and self.device == "cuda":
            raise ValueError("dense_precision is 'int8', in which CPUs alone multiply; set 'bf16' or 'fp32' for cuda")
        if self.dense_precision == "int8" and self.max_batch_candidates:
            raise ValueError(
                "dense_precision is 'int8', which rounds all inputs of a layer by one scale, so scores would depend on "
                "other requests of a batch; set max_batch_candidates to 0, or 'bf16' or 'fp32'"
            )
        if self.cache_mib and self.device == "cuda":
            raise ValueError("cache_mib is set, but what is kept lies in the host's memory; set it to 0 for cuda")
        return self


PLACES = frozenset({"host", "http_port", "grpc_port", "stream_port"})
"""Settings that say where a server listens."""


class LocalConfig(Config):
    """Settings of a bundle's servers on one machine, but for where they listen: who starts them says that."""

    ranker: RankerConfig = RankerConfig()
    """Of the ranker."""
    shard: ShardConfig = ShardConfig()
    """Of every shard."""

    @model_validator(mode="after")
    def _check_places(self) -> Self:
        found = [
            f"{kind}.{place}"
            for kind, of_kind in (("ranker", self.ranker), ("shard", self.shard))
            for place in sorted(PLACES & of_kind.model_fields_set)
        ]
        if found:
            raise ValueError(
                f"{', '.join(found)}: all servers listen on loopback, shards at free ports, the ranker at those of the "
                "command line; leave out where they listen"
            )
        return self
