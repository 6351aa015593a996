"""How long requests take at a server, for Prometheus."""

import time
from contextlib import AbstractContextManager

from prometheus_client import Histogram

BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
"""From a lookup of some bags next door to the deadline that requests have by default."""

SECONDS = Histogram(
    "exfm_request_seconds",
    "Time from when a request was read until its answer was written, of those that were answered, by any door",
    ["model"],
    buckets=BUCKETS_S,
)

PREDICT_SECONDS = Histogram(
    "request_predict_seconds", "Time that the model took for a request, as KServe's own servers tell it", ["model_name"]
)
"""With the name and the buckets that dashboards for KServe's servers know; the first bucket ends at 5 ms."""


class RequestSeconds:
    """The times of one model's requests."""

    def __init__(self, model: str) -> None:
        """Show 0 of this model until there is something."""
        self._seconds = SECONDS.labels(model=model)
        self._predict_seconds = PREDICT_SECONDS.labels(model_name=model)

    def answered(self, *, came_s: float) -> None:
        """Count a request that came at that time, on the clock of time.monotonic, and is answered now."""
        self._seconds.observe(time.monotonic() - came_s)

    def predicting(self) -> AbstractContextManager[object]:
        """Count a request whose model computes in a block."""
        return self._predict_seconds.time()
