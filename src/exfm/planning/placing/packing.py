"""Placing parts on shards so that the heaviest bears as little as can be, and none more bytes than it has room for.

Legend: P parts, S shards.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exfm.artifact.plan import ALIGNMENT_BYTES
from exfm.planning.placing.bounds import Bound, bottleneck_bound
from exfm.planning.placing.exact import is_small, place_exactly
from exfm.planning.placing.repair import EPSILON, repair

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SLACKS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.2)
"""How far above its bound the bottleneck may be, tried one after another. On 192 heavy-tailed instances of 1,000 parts
and 128 shards, 90 to 97 % full, this took 66 ms in the mean and 0.7 s at most (one core, 2026-11)."""

NEAR = 0.004
"""A distance from the bound that is not worth another search."""

NUM_HALVINGS = 3
"""Of the way between a slack that was found and one that was not."""


@dataclass(frozen=True)
class Packing:
    """A shard for each part, and how near the best possible that is."""

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
    """Return a placement with a low bottleneck in weight and no shard above its capacity in bytes; None: none found.

    No shard is empty unless there are fewer parts. The same parts give the same placement. Few parts on few shards go
    to a solver. Others are placed greedily, and then mended (`repair`) until every shard bears at most the bound and
    a slack; the least slack for which that works is searched.
    """
    room_bytes = max(capacity_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES, 1)
    if bottleneck_bound(sizes_P.astype(np.float64), num_shards).value > room_bytes * (1 + EPSILON):
        return None  # at once: some shard has too many bytes, however parts are placed
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
        return repair(start, np.stack([weights_P / most, fills_P]), num_shards)

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
    """Give each empty shard a part of the shard that has most: no part is heavier alone than it was in company."""
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


def _greedy(heights_2P: Floats, num_shards: int) -> Integers:
    """Place the parts, highest first, each where it adds least to the higher of weight and bytes."""
    high_2S = np.zeros((2, num_shards))
    shard_of = np.zeros(heights_2P.shape[1], dtype=np.int64)
    for part in np.argsort(-heights_2P.max(axis=0), kind="stable"):
        shard = int((high_2S + heights_2P[:, part, None]).max(axis=0).argmin())
        shard_of[part] = shard
        high_2S[:, shard] += heights_2P[:, part]
    return shard_of
