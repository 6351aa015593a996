"""Prometheus metrics of request latency."""

from prometheus_client import Histogram

BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Buckets from the time of a lookup of a few bags on the same host to the default deadline."""

REQUEST_SECONDS = Histogram(
    "exfm_request_seconds",
    "Time from when a request was read until its answer was written, of answered requests of all protocols",
    ["model"],
    buckets=BUCKETS_S,
)

PREDICT_SECONDS = Histogram(
    "request_predict_seconds", "Time that the model took for a request, as KServe's servers report it", ["model_name"]
)
"""Has the name and buckets that dashboards for KServe use; the first bucket ends at 5 ms."""
