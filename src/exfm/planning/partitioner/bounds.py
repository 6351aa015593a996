"""Lower bounds of the bottleneck, which is the weight of the heaviest shard.

Legend: P parts.
"""

import numpy as np

from exfm.planning.arrays import Floats


def distance(found: float, bound: float) -> float:
    """Return the share by which `found` is above a lower bound; 0 if the bound is 0."""
    return max(0.0, found / bound - 1) if bound > 0 else 0.0


def bottleneck_bound(weights_P: Floats, num_shards: int) -> float:
    """Return the highest of three lower bounds for whole parts on shards.

    1. The mean weight of a shard, which is the optimum of the linear relaxation.
    2. The pigeonhole principle: some shard has k of the (k - 1) * num_shards + 1 heaviest parts, so its weight is at
       least that of the k lightest of them. For k = 1 this is the heaviest part.
    3. Counting (`_by_count`), which helps with few parts of similar weight.
    """
    mean = float(weights_P.sum()) / num_shards
    if not len(weights_P):
        return mean
    heaviest_first = np.sort(weights_P)[::-1]
    sums = np.concatenate(([0.0], np.cumsum(heaviest_first)))
    counts = np.arange(1, (len(weights_P) - 1) // num_shards + 2)
    ends = (counts - 1) * num_shards + 1
    return _by_count(heaviest_first[::-1], num_shards, max(mean, float((sums[ends] - sums[ends - counts]).max())))


def bound_with_splits(whole_P: Floats, total: float, num_shards: int) -> float:
    """Return a lower bound for parts of which only `whole_P` are indivisible; `total` is the weight of all parts.

    It is the mean, or `bottleneck_bound` of the indivisible parts.
    """
    return max(bottleneck_bound(whole_P, num_shards), total / num_shards)


def _by_count(lightest_first: Floats, num_shards: int, bound: float) -> float:
    """Return the bound, raised as far as counting parts allows.

    Let c be the number of lightest parts that together weigh at most `bound`. Then no shard has more than c parts, so
    at least n shards have exactly c. Their n * c parts are distinct, so one of these shards weighs at least 1/n of the
    n * c lightest parts.
    """
    sums = np.concatenate(([0.0], np.cumsum(lightest_first)))
    num_parts = len(lightest_first)
    while True:
        c = int(np.searchsorted(sums, bound * (1 + 1e-12), side="right")) - 1
        n = num_parts - (c - 1) * num_shards
        if c < 1 or c == num_parts or n <= 0:
            return bound
        raised = float(sums[c * n]) / n if n <= num_shards else np.inf
        if raised <= bound:
            return bound
        # No lower value is feasible with this c, and c grows only where one more part fits.
        next_c = float(sums[c + 1])
        if raised <= next_c:
            return raised
        bound = next_c
