"""Which candidates a ranker had met before, by its own count.

Legend: W servers; 2: candidates that were known, and those that were not.
"""

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from exfm.bench.load import Floats
from exfm.errors import ServingError

COUNTERS = ("exfm_ranker_cache_hits_total", "exfm_ranker_cache_misses_total")


def candidates_met(rest_url: str) -> Floats:
    """Return how many candidates a ranker knew, and how many it did not, since it started; 0 and 0 without a cache.

    Raises: ServingError if it does not answer.
    """
    url = f"{rest_url}/metrics"
    try:
        text = httpx.get(url, trust_env=False).raise_for_status().text
    except httpx.HTTPError as error:
        raise ServingError(f"{url} did not answer: {error}") from error
    counts = {one.name: one.value for family in text_string_to_metric_families(text) for one in family.samples}
    return np.array([counts[name] for name in COUNTERS])


def known_shares(met_W2: Floats) -> tuple[float, ...]:
    """Return the share of candidates that each server knew, given what `candidates_met` returns; 0 of none."""
    return tuple(float(known / max(1.0, known + new)) for known, new in met_W2)
