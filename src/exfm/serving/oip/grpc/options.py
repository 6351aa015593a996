"""gRPC's options of a server."""

from exfm.serving.config import ServerConfig

Options = list[tuple[str, str | int]]

MIN_PING_INTERVAL_MS = 1_000
"""Pause between two pings that a client must leave; by gRPC's own of 5 minutes a client learns late that its server is
gone."""

_LARGE_MESSAGES: Options = [
    (f"grpc.http2.{name}", 4 * 2**20) for name in ("max_frame_size", "lookahead_bytes", "write_buffer_size")
]
"""Requests of many candidates are megabytes, gRPC's own frames 16 KiB."""


def server_options(config: ServerConfig) -> Options:
    """Return the options of a server."""
    return [
        ("grpc.max_send_message_length", config.limits.max_message_bytes),
        ("grpc.max_receive_message_length", config.limits.max_message_bytes),
        # Requests under way at that age may end: they have deadlines of their own, so gRPC's endless grace is kept.
        ("grpc.max_connection_age_ms", config.limits.max_connection_age_s * 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        *_LARGE_MESSAGES,
        ("grpc.so_reuseport", 0),  # else two servers share a port, and each gets some of the requests
    ]
