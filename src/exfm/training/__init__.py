"""Single-pass training in order of time, the same for foundation and vertical models."""
