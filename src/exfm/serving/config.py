"""Settings of the servers."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from exfm.artifact.answers import SumsType
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
"""host:port; all addresses that DNS has for the host are servers of one shard (a headless Service). With
dns://SERVER:PORT/host:port, that DNS server is asked instead of the system's."""


Device = Literal["cpu", "cuda"]


LocalTablesMib = Annotated[int, Field(ge=0, le=1_048_576)]
"""MiB (2**20 bytes) of tables that a ranker holds itself; 0: none."""


_COMPUTED_ALONE = "each request is computed by itself; leave it out"


class ServerConfig(Config):
    """Where a server listens, and how much a request may ask of it."""

    removed: ClassVar[Mapping[str, str]] = {"max_batch_candidates": _COMPUTED_ALONE, "batch_wait_us": _COMPUTED_ALONE}

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
    NVIDIA GPU, whose memory must hold them. What never ran on one: docs/operating.md, GPU nodes."""
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

    removed: ClassVar[Mapping[str, str]] = {
        **ServerConfig.removed,
        "scheduling_policy": "the kernel's default serves as well; leave it out",
    }

    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 256
    """As any server's: so that eight rankers may each have their 32 under way; a lookup takes a tenth of a request's
    time."""
    stream_port: Port = 8082
    """TCP port of streams, by which rankers ask; 0 takes a free one."""
    sums: SumsType = "fp32"
    """How sums travel to rankers: `fp32` as they were added up, `fp16` rounded to half precision, in half the bytes. A
    sum beyond 65,504 has no half precision, and is an error."""
    stream_silence_s: Annotated[int, Field(ge=8, le=600)] = 15
    """Time within which a stream's handshake must end, and a whole frame come then and again, in seconds; 8 to 600. The
    shard closes a connection that takes longer. Rankers ping every 2 to 6 s; 64 MiB within 15 s are 4.5 MB/s."""

    @field_validator("sums", mode="before")
    @classmethod
    def _refuse_rows(cls, sums: Any) -> Any:
        if sums == "rows":
            raise ValueError("rows no longer travel; set fp32 or fp16")
        return sums


_ANSWERED_ONCE = "a lookup is sent again only where its server is lost; leave it out"


class RankerConfig(ServerConfig):
    """Settings of a ranker."""

    removed: ClassVar[Mapping[str, str]] = {
        **ServerConfig.removed,
        "transport": "rankers reach shards by streams; leave it out",
        "cache_mib": "no cache of items is kept; leave it out, or hold tables by local_tables_mib",
        "hedge_after_ms": _ANSWERED_ONCE,
        "hedge_share": _ANSWERED_ONCE,
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
    max_reconnect_backoff_ms: Annotated[int, Field(ge=100, le=60_000)] = 500
    """Pause between two attempts to reach a lost shard, in milliseconds; 100 to 60,000."""
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
    local_tables_mib: LocalTablesMib = 0
    """Memory for whole tables of items, as the bundle encodes them, for which no shard is asked, in MiB (2**20 bytes),
    1 to 1,048,576. 0, the default: none is held. Those of fewest rows are taken, out of the shards' files, which must
    be where the ranker's are. A ranker that holds all tables takes none."""
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
