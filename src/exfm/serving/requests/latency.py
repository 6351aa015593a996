"""Prometheus metrics of request latency."""

import time
from contextlib import AbstractContextManager

from prometheus_client import Histogram

BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
"""From a lookup of a few bags on the same host to the default deadline."""

SECONDS = Histogram(
    "exfm_request_seconds",
    "Time from when a request was read until its answer was written, of answered requests of all protocols",
    ["model"],
    buckets=BUCKETS_S,
)

PREDICT_SECONDS = Histogram(
    "request_predict_seconds", "Time that the model took for a request, as KServe's servers report it", ["model_name"]
)
"""Has the name and buckets that dashboards for KServe use; the first bucket ends at 5 ms."""


class RequestSeconds:
    """The times of one model's requests."""

    def __init__(self, model: str) -> None:
        """Show 0 for this model before its first request."""
        self._seconds = SECONDS.labels(model=model)
        self._predict_seconds = PREDICT_SECONDS.labels(model_name=model)

    def answered(self, *, came_s: float) -> None:
        """Count a request that is answered now and arrived at `came_s` of time.monotonic."""
        self._seconds.observe(time.monotonic() - came_s)

    def predicting(self) -> AbstractContextManager[object]:
        """Measure a block in which the model computes."""
        return self._predict_seconds.time()
