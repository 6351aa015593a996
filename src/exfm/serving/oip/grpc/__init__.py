"""The protocol's gRPC form."""
