"""Packing: parts on shards with a low bottleneck in weight, within each shard's capacity in bytes.

Legend: P parts, S shards; 2 kinds of load: weight and bytes, as shares of a shard's limits.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exfm.artifact.plan import ALIGNMENT_BYTES
from exfm.planning.partitioner.bounds import Bound, bottleneck_bound
from exfm.planning.partitioner.exact import is_small, place_exactly
from exfm.planning.partitioner.tabu_search import EPSILON, tabu_search

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SLACKS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.2)
"""Allowed distances of the bottleneck from its bound, which the search tries in this order."""

NEAR = 0.004
"""Distance from the bound at which the search stops."""

NUM_HALVINGS = 3
"""Maximum number of bisections between a slack that was reached and one that was not."""


@dataclass(frozen=True)
class Packing:
    """A shard for each part, and the distance from the best possible."""

    shard_of: Integers
    """Shape [P]."""
    bottleneck: float
    """Weight of the heaviest shard."""
    bound: Bound

    @property
    def distance(self) -> float:
        """Return by which share the bottleneck is above its bound."""
        return self.bound.distance(self.bottleneck)


def pack(weights_P: Floats, sizes_P: Integers, *, num_shards: int, capacity_bytes: int) -> Packing | None:
    """Return a placement with a low bottleneck in weight and no shard above its capacity in bytes, or None.

    The result is deterministic. No shard is empty unless there are fewer parts than shards. Small problems go to the
    solver. Others are placed greedily; then tabu search moves parts until every shard is within the bound and a slack.
    The search looks for the smallest slack that works.
    """
    room_bytes = max(capacity_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES, 1)
    if bottleneck_bound(sizes_P.astype(np.float64), num_shards).value > room_bytes * (1 + EPSILON):
        return None  # every placement has a shard with too many bytes
    fills_P = sizes_P / room_bytes
    bound = bottleneck_bound(weights_P, num_shards)
    found: list[Integers] = []
    if is_small(len(weights_P), num_shards):
        exact, at_least = place_exactly(weights_P, fills_P, num_shards, at_least=bound.value)
        if at_least == np.inf:
            return None
        bound = Bound(at_least, "the solver's proof") if at_least > bound.value else bound
        if exact is not None and np.bincount(exact, sizes_P).max() <= capacity_bytes:  # the solver rounds
            found.append(exact)
    if not found or bound.distance(_bottleneck(weights_P, found[0])) > SLACKS[0]:
        searched = _search(weights_P, fills_P, num_shards, bound)
        found += [] if searched is None else [searched]
    if not found:
        return None
    shard_of = without_empty(min(found, key=lambda shard_of: _bottleneck(weights_P, shard_of)), num_shards)
    return Packing(shard_of=shard_of, bottleneck=_bottleneck(weights_P, shard_of), bound=bound)


def _bottleneck(weights_P: Floats, shard_of: Integers) -> float:
    return float(np.bincount(shard_of, weights_P).max())


def _search(weights_P: Floats, fills_P: Floats, num_shards: int, bound: Bound) -> Integers | None:
    def within(slack: float, start: Integers) -> tuple[Integers, bool]:
        most = (bound.value or 1.0) * (1 + slack)
        return tabu_search(start, np.stack([weights_P / most, fills_P]), num_shards)

    shard_of = _greedy(np.stack([weights_P / (bound.value or 1.0), fills_P]), num_shards)
    missed, is_found = 0.0, False
    for slack in (*SLACKS, np.inf):
        shard_of, is_found = within(slack, shard_of)
        if is_found:
            break
        missed = slack
    if not is_found:
        return None
    for _ in range(NUM_HALVINGS):
        reached = bound.distance(_bottleneck(weights_P, shard_of))
        if reached <= max(NEAR, missed):
            break
        wanted = (missed + reached) / 2
        better, is_found = within(wanted, shard_of)
        if is_found:
            shard_of = better
        else:
            missed = wanted
    return shard_of


def without_empty(shard_of: Integers, num_shards: int) -> Integers:
    """Return the placement without empty shards: each gets a part of the shard that has most parts."""
    shard_of = shard_of.copy()
    counts = np.bincount(shard_of, minlength=num_shards)
    for empty in np.flatnonzero(counts == 0):
        fullest = int(counts.argmax())
        if counts[fullest] < 2:
            break
        shard_of[np.flatnonzero(shard_of == fullest)[0]] = empty
        counts[fullest] -= 1
        counts[empty] = 1
    return shard_of


def _greedy(loads_2P: Floats, num_shards: int) -> Integers:
    """Return a greedy placement: parts by descending load, each on the shard whose higher load it raises least."""
    shard_load_2S = np.zeros((2, num_shards))
    shard_of = np.zeros(loads_2P.shape[1], dtype=np.int64)
    for part in np.argsort(-loads_2P.max(axis=0), kind="stable"):
        shard = int((shard_load_2S + loads_2P[:, part, None]).max(axis=0).argmin())
        shard_of[part] = shard
        shard_load_2S[:, shard] += loads_2P[:, part]
    return shard_of
