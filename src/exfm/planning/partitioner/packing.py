"""Packing: parts on shards with a low bottleneck in weight, within each shard's capacity in bytes.

Legend: P parts, S shards; 2 kinds of load: weight and bytes, as shares of a shard's limits.
"""

from dataclasses import dataclass

import numpy as np

from exfm.artifact.plan import ALIGNMENT_BYTES
from exfm.planning.arrays import Floats, Integers
from exfm.planning.partitioner.bounds import bottleneck_bound, distance
from exfm.planning.partitioner.exact import is_small, place_exactly
from exfm.planning.partitioner.tabu_search import EPSILON, loads_of, tabu_search

SLACKS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.2)
"""Allowed distances of the bottleneck from its bound, which the search tries in this order."""

NEAR = 0.004
"""Distance from the bound at which the search stops."""

NOWHERE = -1
"""The home of a part that is on no shard yet."""

NUM_HALVINGS = 3
"""Maximum number of bisections between a slack that was reached and one that was not."""


@dataclass(frozen=True)
class Packing:
    """A shard for each part, and the distance from the best possible."""

    shard_of: Integers
    """Shape [P]."""
    bottleneck: float
    """Weight of the heaviest shard."""
    bound: float
    """Lower bound of the bottleneck."""


def pack(weights_P: Floats, sizes_P: Integers, *, num_shards: int, capacity_bytes: int) -> Packing | None:
    """Return a placement with a low bottleneck in weight and no shard above its capacity in bytes, or None.

    The result is deterministic. No shard is empty unless there are fewer parts than shards. Small problems go to the
    solver. Others are placed greedily; then tabu search moves parts until every shard is within the bound and a slack.
    The search looks for the smallest slack that works.
    """
    room_bytes = max(capacity_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES, 1)
    if bottleneck_bound(sizes_P.astype(np.float64), num_shards) > room_bytes * (1 + EPSILON):
        return None  # every placement has a shard with too many bytes
    fills_P = sizes_P / room_bytes
    bound = bottleneck_bound(weights_P, num_shards)
    found: list[Integers] = []
    if is_small(len(weights_P), num_shards):
        exact, at_least = place_exactly(weights_P, fills_P, num_shards, at_least=bound)
        if at_least == np.inf:
            return None
        bound = max(bound, at_least)
        if exact is not None and np.bincount(exact, sizes_P).max() <= capacity_bytes:  # the solver rounds
            found.append(exact)
    if not found or distance(_bottleneck(weights_P, found[0]), bound) > SLACKS[0]:
        searched = _search(weights_P, fills_P, num_shards, bound)
        found += [] if searched is None else [searched]
    if not found:
        return None
    shard_of = without_empty(min(found, key=lambda shard_of: _bottleneck(weights_P, shard_of)), num_shards)
    return Packing(shard_of=shard_of, bottleneck=_bottleneck(weights_P, shard_of), bound=bound)


def _bottleneck(weights_P: Floats, shard_of: Integers) -> float:
    return float(np.bincount(shard_of, weights_P).max())


def _search(weights_P: Floats, fills_P: Floats, num_shards: int, bound: float) -> Integers | None:
    def within(slack: float, start: Integers) -> tuple[Integers, bool]:
        most = (bound or 1.0) * (1 + slack)
        return tabu_search(start, np.stack([weights_P / most, fills_P]), num_shards)

    loads_2P = np.stack([weights_P / (bound or 1.0), fills_P])
    shard_of = place_greedily(np.full(len(weights_P), NOWHERE), loads_2P, num_shards)
    missed, is_found = 0.0, False
    for slack in (*SLACKS, np.inf):
        shard_of, is_found = within(slack, shard_of)
        if is_found:
            break
        missed = slack
    if not is_found:
        return None
    for _ in range(NUM_HALVINGS):
        reached = distance(_bottleneck(weights_P, shard_of), bound)
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


def place_greedily(home_P: Integers, loads_2P: Floats, num_shards: int) -> Integers:
    """Return the homes of parts, and a shard for each part whose home is NOWHERE.

    These parts go by descending load to the shard whose higher load they raise least.
    """
    shard_of, settled = home_P.copy(), home_P != NOWHERE
    shard_load_2S = loads_of(home_P[settled], loads_2P[:, settled], num_shards)
    for part in np.argsort(-loads_2P.max(axis=0), kind="stable"):
        if not settled[part]:
            shard_of[part] = int((shard_load_2S + loads_2P[:, part, None]).max(axis=0).argmin())
            shard_load_2S[:, shard_of[part]] += loads_2P[:, part]
    return shard_of
