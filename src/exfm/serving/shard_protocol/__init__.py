"""The protocol between rankers and shards: frames over a TCP or TLS stream."""
