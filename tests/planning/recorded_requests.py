"""Requests from a seed, as a trace holds them."""

import numpy as np

from exfm.artifact.trace import Requests
from exfm.schema import NETS, Net, Schema


def random_requests(schema: Schema, num_requests: int, *, seed: int, first_ns: int = 0) -> Requests:
    """Return requests a microsecond apart, some without users, items or keys; low rows are wanted most."""
    rng = np.random.default_rng(seed)
    num_rows: dict[Net, np.ndarray] = {net: rng.integers(0, 5, num_requests) for net in NETS}
    lengths = {
        feature.name: rng.integers(0, 2 if feature.kind == "single" else 6, num_rows[feature.net].sum(), dtype=np.int32)
        for feature in schema.sparse
    }
    keys = {
        name: (rng.random(int(of_feature.sum())) ** 4 * 2**64).astype(np.uint64) for name, of_feature in lengths.items()
    }
    arrival_ns = first_ns + 1_000 * np.arange(num_requests)
    return Requests(arrival_ns=arrival_ns, num_rows=num_rows, keys=keys, lengths=lengths)
