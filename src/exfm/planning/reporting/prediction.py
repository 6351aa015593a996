"""A prediction of latency and utilisation, as text."""

import numpy as np

from exfm.planning.simulation.simulator import Prediction
from exfm.planning.sizes import three_digits


def prediction_lines(prediction: Prediction) -> tuple[str, ...]:
    """Return a prediction as lines of text."""
    busiest = int(np.argmax(prediction.shard_utilisation))
    lines = (
        f"latency at {prediction.requests_per_s:,g} requests/s: median {three_digits(prediction.p50_ms)} ms, "
        f"90 % {three_digits(prediction.p90_ms)} ms, 99 % {three_digits(prediction.p99_ms)} ms",
        f"CPU time of a request: {three_digits(prediction.cpu_ms)} ms, "
        f"{three_digits(prediction.ranker_cpu_ms)} ms of it at the ranker; {prediction.calls:g} calls to shards",
        f"busy: rankers {prediction.ranker_utilisation:.0%}, servers of shards "
        f"{min(prediction.shard_utilisation):.0%} to {max(prediction.shard_utilisation):.0%} (shard {busiest})",
    )
    if prediction.is_overloaded:
        return (*lines, "overloaded: queues grow without limit, so the latency depends on the length of the simulation")
    return lines
