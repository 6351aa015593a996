"""Settings of the servers. Each stands here once: a flag or a value of the chart that sets one names its place here."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from exfm.config import Config, like
from exfm.models.config import PooledPrecision, Precision, ShardsConfig

Port = Annotated[int, Field(ge=0, le=65_535)]

Concurrency = Annotated[int, Field(ge=1, le=10_000)]
"""Most requests or lookups of a server that are under way."""


def _check_ports(address: str) -> str:
    if not all(0 < int(port) < 2**16 for port in re.findall(r":([0-9]+)", address)):
        raise ValueError(f"{address}: a port is 1 to 65,535")
    return address


Address = Annotated[
    str,
    like(
        r"(dns://[^\s:,/]+(:[0-9]{1,5})?/)?[^\s:,/]+:[0-9]{1,5}",
        "HOST:PORT, or dns://SERVER:PORT/HOST:PORT",
    ),
    AfterValidator(_check_ports),
]
"""host:port; all addresses that DNS has for the host are servers of one shard (a headless Service). With
dns://SERVER:PORT/host:port, names are looked up at that DNS server instead of the system's."""


Device = Literal["cpu", "cuda"]

_COMPUTED_ALONE = "each request is computed by itself; leave it out"


def moved(**places: str) -> dict[str, str]:
    """Return what refuses settings that have another place now, by their old names."""
    return {key: f"set {place}" for key, place in places.items()}


class ListenConfig(Config):
    """Where a server listens."""

    host: Annotated[str, StringConstraints(min_length=1)] = "127.0.0.1"
    """Address of REST and gRPC. Neither is encrypted or authenticated, so the default is loopback; 0.0.0.0 in a pod
    behind a network policy."""
    http_port: Port = 8080
    """TCP port of REST, health and metrics; 0: a free one."""
    grpc_port: Port = 8081
    """TCP port of gRPC; 0: a free one."""


class ShardListenConfig(ListenConfig):
    """Where a shard listens."""

    stream_port: Port = 8082
    """TCP port of the streams by which rankers reach a shard; 0: a free one."""


class LimitsConfig(Config):
    """How large a request may be, and how many may be under way."""

    max_candidates: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Most items of one request, and most users; 1 to 1,000,000."""
    max_ids: Annotated[int, Field(ge=1, le=100_000_000)] = 262_144
    """Most values of all inputs of one request together; 1 to 100,000,000."""
    max_message_bytes: Annotated[int, Field(ge=1_024, le=2**31 - 1)] = 64 * 2**20
    """Largest size of a gRPC message, REST body or stream frame, in bytes; 1 KiB to 2 GiB."""
    max_concurrency: Concurrency = 32
    """Most requests under way; 1 to 10,000. The server refuses further requests at once (RESOURCE_EXHAUSTED, 429)."""
    max_unfinished_requests: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Most requests whose body is not complete; 1 to 100,000. They do not count towards `max_concurrency`. Over this
    limit the server closes the request that was idle for longest (RESOURCE_EXHAUSTED, 429)."""
    max_unfinished_bytes: Annotated[int, Field(ge=1_024, le=2**40)] = 256 * 2**20
    """Most bytes of all incomplete bodies together; 1 KiB to 1 TiB. One body is always allowed. gRPC shows only
    complete messages, so an incomplete one counts as `max_message_bytes` after 2 s."""
    max_connection_age_s: Annotated[int, Field(ge=1, le=86_400)] = 60
    """Age at which a server asks a gRPC client to reconnect, in seconds; 1 to 86,400. Only then a client resolves the
    server's name again and finds added replicas. For a ranker in a pod: half of `shutdown.lame_duck_s` at most."""


class ShardLimitsConfig(LimitsConfig):
    """How large a lookup may be, and how many may be under way."""

    max_concurrency: Concurrency = 256
    """Most lookups under way; 1 to 10,000. The shard refuses further lookups at once (RESOURCE_EXHAUSTED)."""


class DeadlinesConfig(Config):
    """How long a request may take."""

    default_ms: Annotated[int, Field(ge=1, le=600_000)] = 1_000
    """Deadline of a request that has none of its own, in milliseconds; 1 to 600,000."""


class RankerDeadlinesConfig(DeadlinesConfig):
    """How long a request and its lookups may take."""

    shard_budget: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Share of a request's remaining time for which a ranker with `when_shard_fails: degrade` waits for shards; more
    than 0, less than 1. The rest of the time is for scoring."""


class ShardDeadlinesConfig(DeadlinesConfig):
    """How long a lookup may take, and how long a silent connection stays open."""

    stream_silence_s: Annotated[int, Field(ge=8, le=600)] = 15
    """Time for a stream's handshake, and from one complete frame to the next, in seconds; 8 to 600. The shard closes a
    connection that takes longer. Rankers ping every 2 to 6 s."""


class ShutdownConfig(Config):
    """How a server ends. A pod's grace period must be longer than both times together."""

    lame_duck_s: Annotated[int, Field(ge=0, le=600)] = 0
    """Time after SIGTERM in which a server is not ready but still answers, in seconds; 0 to 600. 0: it stops at once.
    In a pod about 10, so that all clients learn that the pod stops."""
    drain_s: Annotated[int, Field(ge=0, le=600)] = 10
    """Time for requests under way to end after a server accepts no more, or after a stream's certificate was replaced,
    in seconds; 0 to 600. 0: they are cancelled."""


class BreakerConfig(Config):
    """When a ranker stops sending lookups to a shard that fails, and for how long."""

    failures: Annotated[int, Field(ge=0, le=1_000)] = 5
    """Failures of a shard in a row after which a ranker pauses its lookups; 0 to 1,000. 0: never."""
    pause_ms: Annotated[int, Field(ge=10, le=60_000)] = 1_000
    """Length of this pause, in milliseconds; 10 to 60,000. After it, one lookup tries the shard again."""
    patience_ms: Annotated[int, Field(ge=0, le=600_000)] = 100
    """A missing answer counts as a failure only if the lookup waited at least this long, in milliseconds; 0 to 600,000.
    0: every missing answer counts. Set it below the deadlines of your clients."""


class RequestLogConfig(Config):
    """Which requests a ranker logs, and where: for `exfm shard statistics`, and for runs that learn from them."""

    folder: str = ""
    """Folder of the log, which may exist; each start of a ranker makes a folder in it. Empty: nothing is logged.
    In a pod use a volume, because a folder below /tmp is lost with the pod."""
    domain: str = ""
    """Domain of logged impressions if the request does not name it. Empty: every request must name it, so a model
    without the schema's `domain` as a feature is refused."""
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Probability with which a request is logged; more than 0, at most 1."""
    file_s: Annotated[int, Field(ge=1, le=86_400)] = 60
    """Time after which a file is finished even if it is not full (8 MiB), in seconds; 1 to 86,400. A ranker that is
    killed loses its unfinished file."""
    max_mib: Annotated[int, Field(ge=32, le=1_048_576)] = 64
    """Largest size of the logs of all starts on one host, in MiB (2**20 bytes); 32 to 1,048,576. If the next file has
    no room, logging pauses until files are removed. A pod's /tmp has 256 MiB."""


class ServerConfig(Config):
    """Settings of any server."""

    removed: ClassVar[Mapping[str, str]] = {
        "max_batch_candidates": _COMPUTED_ALONE,
        "batch_wait_us": _COMPUTED_ALONE,
        **moved(
            host="listen.host",
            http_port="listen.http_port",
            grpc_port="listen.grpc_port",
            default_deadline_ms="deadlines.default_ms",
            max_candidates="limits.max_candidates",
            max_ids="limits.max_ids",
            max_message_bytes="limits.max_message_bytes",
            max_concurrency="limits.max_concurrency",
            max_connection_age_s="limits.max_connection_age_s",
            lame_duck_s="shutdown.lame_duck_s",
            drain_s="shutdown.drain_s",
        ),
    }

    listen: ListenConfig = ListenConfig()
    limits: LimitsConfig = LimitsConfig()
    deadlines: DeadlinesConfig = DeadlinesConfig()
    shutdown: ShutdownConfig = ShutdownConfig()
    device: Device = "cpu"
    """Where dense layers and tables are: `cpu`, or `cuda`, one NVIDIA GPU whose memory must hold them."""
    torch_threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of one tensor operation; 1 to 256. With 1, a core answers the most requests. More threads shorten
    requests with large dense layers."""


class ShardConfig(ServerConfig):
    """Settings of a shard: `shard` in serve.yaml, `shard.settings` in the chart's values, shard.yaml in ConfigMap
    `exfm-servers`."""

    removed: ClassVar[Mapping[str, str]] = {
        **ServerConfig.removed,
        "scheduling_policy": "the kernel's default policy is as good; leave it out",
        **moved(
            stream_port="listen.stream_port", stream_silence_s="deadlines.stream_silence_s", sums="pooled_precision"
        ),
    }

    listen: ShardListenConfig = ShardListenConfig()
    limits: ShardLimitsConfig = ShardLimitsConfig()
    deadlines: ShardDeadlinesConfig = ShardDeadlinesConfig()
    pooled_precision: PooledPrecision = "fp32"
    """Number format of pooled embeddings on the way to rankers. `fp16` takes half the bytes and rounds the numbers; a
    number beyond 65,504 is then an error."""


_ANSWERED_ONCE = "a lookup is sent again only if its server is lost; leave it out"
_COUNTED = "`exfm shard statistics` counts request logs"
_AT_RANDOM = "requests are logged at random; leave it out"


class RankerConfig(ServerConfig):
    """Settings of a ranker: `ranker` in serve.yaml, `ranker.settings` in the chart's values, ranker.yaml in ConfigMap
    `exfm-servers`."""

    removed: ClassVar[Mapping[str, str]] = {
        **ServerConfig.removed,
        "transport": "rankers reach shards by streams; leave it out",
        "cache_mib": "rankers have no cache of items; leave it out, or set shards.local_tables_mib",
        "hedge_after_ms": _ANSWERED_ONCE,
        "hedge_share": _ANSWERED_ONCE,
        "lookup_attempts": "a lookup is sent 3 times while its servers cannot be reached; leave it out",
        "max_reconnect_backoff_ms": "rankers try to reach a lost shard every 0.5 s; leave it out",
        "trace_folder": f"{_COUNTED}; set request_log.folder",
        "trace_max_requests": f"{_COUNTED}; set request_log.max_mib",
        "trace_max_mib": f"{_COUNTED}; set request_log.max_mib",
        "trace_sampling_rate": f"{_COUNTED}; set request_log.sampling_rate",
        "trace_seed": _AT_RANDOM,
        "log_seed": _AT_RANDOM,
        **moved(
            when_shard_fails="shards.when_shard_fails",
            local_tables_mib="shards.local_tables_mib",
            shard_budget="deadlines.shard_budget",
            breaker_failures="breaker.failures",
            breaker_pause_ms="breaker.pause_ms",
            breaker_patience_ms="breaker.patience_ms",
            log_folder="request_log.folder",
            log_domain="request_log.domain",
            log_sampling_rate="request_log.sampling_rate",
            log_file_s="request_log.file_s",
            log_max_mib="request_log.max_mib",
        ),
    }

    deadlines: RankerDeadlinesConfig = RankerDeadlinesConfig()
    shards: ShardsConfig = ShardsConfig()
    breaker: BreakerConfig = BreakerConfig()
    request_log: RequestLogConfig = RequestLogConfig()
    dense_precision: Precision = "fp32"
    """Precision of dense layers, except the bottom tower and the last layers, which stay in fp32. `bf16` is fast only
    on CPUs with AVX512-BF16 or AMX. `int8` needs VNNI; AMX is faster. `exfm bench precision` measures its NE."""

    @model_validator(mode="after")
    def _check_device(self) -> Self:
        if self.dense_precision == "int8" and self.device == "cuda":
            raise ValueError("dense_precision is 'int8', which only CPUs support; set 'bf16' or 'fp32' for cuda")
        return self


class LocalConfig(Config):
    """Settings of a bundle's servers on one machine (`exfm serve --settings`), without `listen`."""

    ranker: RankerConfig = RankerConfig()
    """Settings of the ranker."""
    shard: ShardConfig = ShardConfig()
    """Settings of every shard."""

    @model_validator(mode="after")
    def _check_places(self) -> Self:
        of_kinds = (("ranker", self.ranker), ("shard", self.shard))
        found = [f"{kind}.listen" for kind, of_kind in of_kinds if "listen" in of_kind.model_fields_set]
        if found:
            raise ValueError(
                f"{', '.join(found)}: all servers listen on loopback, shards at free ports, the ranker at those of the "
                "command line; leave out where they listen"
            )
        return self
