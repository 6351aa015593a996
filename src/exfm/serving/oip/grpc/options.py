"""The gRPC server's options."""

from exfm.serving.config import ServerConfig

Options = list[tuple[str, str | int]]

MIN_PING_INTERVAL_MS = 1_000
"""Shortest pause between a client's pings; by gRPC's default, 5 minutes, clients notice a lost server late."""

_LARGE_MESSAGES: Options = [
    (f"grpc.http2.{name}", 4 * 2**20) for name in ("max_frame_size", "lookahead_bytes", "write_buffer_size")
]
"""Requests with many candidates are megabytes; gRPC's default frames are 16 KiB."""


def server_options(config: ServerConfig) -> Options:
    """Return the gRPC options of a server with these settings."""
    return [
        ("grpc.max_send_message_length", config.limits.max_message_bytes),
        ("grpc.max_receive_message_length", config.limits.max_message_bytes),
        # No grace period is set: requests under way at that age end by their own deadlines.
        ("grpc.max_connection_age_ms", config.limits.max_connection_age_s * 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        *_LARGE_MESSAGES,
        ("grpc.so_reuseport", 0),  # or two servers could share a port, and each would get some of the requests
    ]
