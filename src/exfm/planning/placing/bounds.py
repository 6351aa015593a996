"""How low a bottleneck can be: numbers that no placement goes below, whoever finds it.

Legend: P parts.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bound:
    """A lower bound of the most that a shard bears, or of a cost, in the unit of that, and why it holds."""

    value: float
    reason: str

    def distance(self, found: float) -> float:
        """Return by which share `found` lies above this bound; 0 where the bound is 0."""
        return max(0.0, found / self.value - 1) if self.value > 0 else 0.0


def bottleneck_bound(weights_P: Floats, num_shards: int) -> Bound:
    """Return the best of these lower bounds of the integer program that places whole parts on shards.

    Its linear relaxation, whose optimum is the mean: to spread every part over all shards is feasible whenever all
    bytes fit. The pigeonhole: of the (k - 1) * num_shards + 1 heaviest parts some shard has k, which weigh at least
    what the k lightest of them do; for k = 1 that is the heaviest part. And a count (`_by_count`), for parts that are
    few and alike.
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
    """Return a lower bound where some tables are split as anyone likes: of `total`, only `whole_P` are whole.

    The mean, or what the whole ones force upon a shard.
    """
    forced, mean = bottleneck_bound(whole_P, num_shards), total / num_shards
    return forced if forced.value > mean else Bound(mean, f"the mean of {num_shards} shards")


def _by_count(lightest_first: Floats, num_shards: int, bound: Bound) -> Bound:
    """Return a bound that is raised as far as counting parts does.

    If the most that a shard bears is `bound`, none has more than the c parts of which the c lightest weigh less. Then n
    shards at least have c parts, all different ones, so one of them bears an n-th of what the lightest n * c weigh.
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
        # Nothing below is feasible while c is what it is, and c grows where one part more has room.
        next_c = float(sums[c + 1])
        if raised <= next_c:
            return Bound(raised, f"{n} shards have {c} parts at least")
        bound = Bound(next_c, f"some shard has {c + 1} parts")
