"""Lower bounds of the bottleneck, which is the weight of the heaviest shard.

Legend: P parts.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bound:
    """A lower bound of a bottleneck or of a cost, in the same unit, with its reason."""

    value: float
    reason: str

    def distance(self, found: float) -> float:
        """Return the share by which `found` is above this bound; 0 if the bound is 0."""
        return max(0.0, found / self.value - 1) if self.value > 0 else 0.0


def bottleneck_bound(weights_P: Floats, num_shards: int) -> Bound:
    """Return the highest of three lower bounds for whole parts on shards.

    1. The mean weight of a shard, which is the optimum of the linear relaxation.
    2. The pigeonhole principle: some shard has k of the (k - 1) * num_shards + 1 heaviest parts, so its weight is at
       least that of the k lightest of them. For k = 1 this is the heaviest part.
    3. Counting (`_by_count`), which helps with few parts of similar weight.
    """
    bound = Bound(float(weights_P.sum()) / num_shards, f"the mean of {num_shards} shards")
    if not len(weights_P):
        return bound
    heaviest_first = np.sort(weights_P)[::-1]
    sums = np.concatenate(([0.0], np.cumsum(heaviest_first)))
    counts = np.arange(1, (len(weights_P) - 1) // num_shards + 2)
    ends = (counts - 1) * num_shards + 1
    together = sums[ends] - sums[ends - counts]
    k = int(together.argmax())
    if together[k] > bound.value:
        some = "the heaviest part" if k == 0 else f"{counts[k]} of the {ends[k]} heaviest parts share a shard"
        bound = Bound(float(together[k]), some)
    return _by_count(heaviest_first[::-1], num_shards, bound)


def bound_with_splits(whole_P: Floats, total: float, num_shards: int) -> Bound:
    """Return a lower bound for parts of which only `whole_P` are indivisible; `total` is the weight of all parts.

    It is the mean, or `bottleneck_bound` of the indivisible parts.
    """
    forced, mean = bottleneck_bound(whole_P, num_shards), total / num_shards
    return forced if forced.value > mean else Bound(mean, f"the mean of {num_shards} shards")


def _by_count(lightest_first: Floats, num_shards: int, bound: Bound) -> Bound:
    """Return the bound, raised as far as counting parts allows.

    Let c be the number of lightest parts that together weigh at most `bound`. Then no shard has more than c parts, so
    at least n shards have exactly c. Their n * c parts are distinct, so one of these shards weighs at least 1/n of the
    n * c lightest parts.
    """
    sums = np.concatenate(([0.0], np.cumsum(lightest_first)))
    num_parts = len(lightest_first)
    while True:
        c = int(np.searchsorted(sums, bound.value * (1 + 1e-12), side="right")) - 1
        n = num_parts - (c - 1) * num_shards
        if c < 1 or c == num_parts or n <= 0:
            return bound
        is_possible = n <= num_shards
        raised = float(sums[c * n]) / n if is_possible else np.inf
        if raised <= bound.value:
            return bound
        # No lower value is feasible with this c, and c grows only where one more part fits.
        next_c = float(sums[c + 1])
        if raised <= next_c:
            return Bound(raised, f"{n} shards have {c} parts at least")
        bound = Bound(next_c, f"some shard has {c + 1} parts")
