"""How connections between rankers and shards live: gRPC's options of both ends, which must fit each other."""

import json
from typing import Any

from exfm.serving.config import RankerConfig, ServerConfig

Options = list[tuple[str, str | int]]

KEEPALIVE_TIME_MS = 2_000
"""Pause after which a ranker asks a silent connection whether its peer is there."""
KEEPALIVE_TIMEOUT_MS = 3_000
"""Time for the answer: a shard that vanished with its machine is noticed within 5 s."""

CONNECT_MS = 2_000
"""Time for an attempt to connect, TLS handshake and all; gRPC's own is 20 s, in which an address that is gone for good
is not tried anew."""

_LARGE_MESSAGES: Options = [
    (f"grpc.http2.{name}", 4 * 2**20) for name in ("max_frame_size", "lookahead_bytes", "write_buffer_size")
]
"""Sums are megabytes, gRPC's own frames 16 KiB: 2 to 5 % of a request's latency and CPU time (133 tables, two shards,
512 candidates, two shared cores, 2026-11)."""


def client_options(config: RankerConfig) -> Options:
    """Return the options of a ranker's channel to one shard.

    The name is looked up by gRPC itself, and every address that it has gets its turn. A lookup changes nothing, so one
    that met a lost server is sent again to another, within its deadline.
    """
    return [
        ("grpc.service_config", json.dumps(_service_config(attempts=config.lookup_attempts))),
        ("grpc.service_config_disable_resolution", 1),  # else it asks DNS for this configuration
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),  # gRPC's own is 30 s
        ("grpc.per_rpc_retry_buffer_size", config.max_message_bytes),  # larger ones would not be sent again
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", CONNECT_MS),  # time for an attempt, whatever its name says
        ("grpc.max_reconnect_backoff_ms", config.max_reconnect_backoff_ms),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # counts where calls are under way; gRPC's own is 60 s
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),  # gRPC's own limit is 2
        *_LARGE_MESSAGES,
        ("grpc.enable_http_proxy", 0),  # a proxy of the environment is meant for the world outside
    ]


def server_options(config: ServerConfig) -> Options:
    """Return the options of a server."""
    return [
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        # Requests under way at that age may end: they have deadlines of their own, so gRPC's endless grace is kept.
        ("grpc.max_connection_age_ms", config.max_connection_age_s * 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Below 5 minutes, gRPC's own, a server hangs up on a ranker that asks so often.
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 2),
        *_LARGE_MESSAGES,
        ("grpc.so_reuseport", 0),  # else two servers share a port, and each gets some of the requests
    ]


def _service_config(*, attempts: int) -> dict[str, Any]:
    """Return gRPC's service config for this many attempts of a call; 1 sends it once.

    Source: gRPC's A6 (retries), https://github.com/grpc/proposal/blob/master/A6-client-retries.md.
    """
    balancing: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if attempts == 1:
        return balancing
    retry = {
        "maxAttempts": attempts,
        "initialBackoff": "0.02s",
        "maxBackoff": "0.1s",
        "backoffMultiplier": 2,
        # CANCELLED is what a server of gRPC's says, when it stops, to a request that meets that moment.
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    return {**balancing, "methodConfig": [{"name": [{}], "retryPolicy": retry}]}
