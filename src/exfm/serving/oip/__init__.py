"""The Open Inference Protocol in both its forms, each with its codec, its server and its client."""
