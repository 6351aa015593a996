"""How long requests take at a server, for Prometheus; KServe's own histogram begins at 5 ms."""

import time

from prometheus_client import Histogram

BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
"""From a lookup of some bags next door to the deadline that requests have by default."""

SECONDS = Histogram(
    "exfm_request_seconds",
    "Time from when a request was read until its answer was written, of those that were answered, by any door",
    ["model"],
    buckets=BUCKETS_S,
)


class RequestSeconds:
    """The times of one model's requests."""

    def __init__(self, model: str) -> None:
        """Show 0 of this model until there is something."""
        self._seconds = SECONDS.labels(model=model)

    def answered(self, *, came_s: float) -> None:
        """Count a request that came at that time, on the clock of time.monotonic, and is answered now."""
        self._seconds.observe(time.monotonic() - came_s)
