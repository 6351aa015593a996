"""Mending a placement until no shard is too high: tabu search over moves and swaps.

Legend: P parts; S shards; 2 the rows of heights: what a shard may not exceed, as shares of what it may have; Y what can
come in exchange: the parts, then for each shard nothing; X groups of a shard's own parts; G groups of what comes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

NUM_STEPS = 600
"""Of one search. Those that find what they look for take 50 to 400 on 1,000 parts and 128 shards."""

TENURE = (3, 12)
"""Steps, from and below, that a part stays where it was moved to."""

EPSILON = 1e-11
"""Above 1 that counts as 1: more than sums of floats are off, less than 64 B of 4 TiB."""


def repair(
    shard_of: Integers, heights_2P: Floats, num_shards: int, *, tolls_P: Floats | None = None
) -> tuple[Integers, bool]:
    """Return a placement in which no shard is higher than 1 in either row of `heights`, and whether it is that.

    Each step takes parts off a shard that is too high, for parts of another shard or nothing: the exchange that leaves
    these two shards least above 1, even if that is more than before. A part that moved then stays for some steps, which
    leads the search away from where it cannot improve. If it fails, it returns the placement that was least above 1.

    Where `tolls` are given, a part away from where it was at first costs its toll, in the unit of heights above 1.
    """
    random = np.random.default_rng(0)
    state = _State.of(shard_of, heights_2P, num_shards, tolls_P)
    least, best = np.inf, shard_of
    for step in range(NUM_STEPS):
        above_S = _above(state.high_2S)
        total = float(above_S.sum())
        if total < least:
            least, best = total, state.shard_Y[state.is_part_Y]
        if total == 0:
            return best, True
        too_high = np.flatnonzero(above_S)
        shard = int(above_S.argmax() if random.random() < 0.5 else random.choice(too_high))
        movable_Y = state.free_from_Y <= step
        own = np.flatnonzero(movable_Y & (state.shard_Y == shard) & state.is_part_Y)
        others = np.flatnonzero(movable_Y & (state.shard_Y != shard))
        if len(own) and len(others):
            leaving, coming = _best_exchange(state, above_S, shard, own, others)
            state.exchange(leaving, coming)
            moved = np.concatenate([leaving, coming])
            state.free_from_Y[moved] = step + 1 + random.integers(*TENURE, size=len(moved))
            state.free_from_Y[state.num_parts :] = 0
    return best, False


def heights_of(shard_of: Integers, heights_2P: Floats, num_shards: int) -> Floats:
    """Return how high each shard is; shape [2, S]."""
    return np.stack([np.bincount(shard_of, row, num_shards) for row in heights_2P]).astype(np.float64)


@dataclass
class _State:
    num_parts: int
    is_part_Y: Booleans
    shard_Y: Integers
    home_Y: Integers
    toll_Y: Floats
    free_from_Y: Integers
    """The step from which each may move again."""
    height_2Y: Floats
    high_2S: Floats

    @classmethod
    def of(cls, shard_of: Integers, heights_2P: Floats, num_shards: int, tolls_P: Floats | None) -> "_State":
        shard_Y = np.concatenate([shard_of, np.arange(num_shards)])
        nothing = np.zeros(num_shards)
        return cls(
            num_parts=len(shard_of),
            is_part_Y=np.arange(len(shard_Y)) < len(shard_of),
            shard_Y=shard_Y,
            home_Y=shard_Y.copy(),
            toll_Y=np.concatenate([np.zeros(len(shard_of)) if tolls_P is None else tolls_P, nothing]),
            free_from_Y=np.zeros(len(shard_Y), dtype=np.int64),
            height_2Y=np.concatenate([heights_2P, np.stack([nothing, nothing])], axis=1),
            high_2S=heights_of(shard_of, heights_2P, num_shards),
        )

    def exchange(self, leaving: Integers, coming: Integers) -> None:
        start, end = self.shard_Y[leaving[0]], self.shard_Y[coming[0]]
        moved_2 = self.height_2Y[:, leaving].sum(axis=1) - self.height_2Y[:, coming].sum(axis=1)
        self.high_2S[:, start] -= moved_2
        self.high_2S[:, end] += moved_2
        self.shard_Y[leaving] = end
        self.shard_Y[coming[self.is_part_Y[coming]]] = start


def _best_exchange(
    state: _State, above_S: Floats, shard: int, own: Integers, others: Integers
) -> tuple[Integers, Integers]:
    """Return which parts best leave a shard, and what then comes; pairs are tried only where single parts help not."""
    own_X1, others_G1 = own[:, None], others[:, None]
    change, leaving, coming = _best_of(state, above_S, shard, own_X1, others_G1)
    if change <= -EPSILON:
        return leaving, coming
    own_X2 = own[np.stack(np.triu_indices(len(own), 1), axis=1)]
    others_G2 = _pairs_by_shard(others[state.is_part_Y[others]], state.shard_Y)
    for groups, in_exchange in ((own_X2, others_G1), (own_X1, others_G2)):
        if len(groups) and len(in_exchange):
            change_here, leaving_here, coming_here = _best_of(state, above_S, shard, groups, in_exchange)
            if change_here < change:
                change, leaving, coming = change_here, leaving_here, coming_here
    return leaving, coming


def _best_of(
    state: _State, above_S: Floats, shard: int, leaving_X: Integers, coming_G: Integers
) -> tuple[float, Integers, Integers]:
    """Return by how much the best exchange changes what is above 1, and what leaves and comes in it."""
    to_G = state.shard_Y[coming_G[:, 0]]
    change_XG = -above_S[shard] - np.broadcast_to(above_S[to_G], (len(leaving_X), len(coming_G)))
    for height_Y, high_S in zip(state.height_2Y, state.high_2S, strict=True):
        moved_XG = height_Y[leaving_X].sum(axis=1)[:, None] - height_Y[coming_G].sum(axis=1)
        change_XG += np.maximum(high_S[shard] - 1 - moved_XG, 0)
        change_XG += np.maximum(high_S[to_G] - 1 + moved_XG, 0)
    if state.toll_Y.any():
        for part_X in leaving_X.T:
            change_XG += _toll_of(state, part_X[:, None], start=shard, end=to_G)
        for part_G in coming_G.T:
            change_XG += _toll_of(state, part_G, start=to_G, end=shard)
    row, column = divmod(int(change_XG.argmin()), len(coming_G))
    return float(change_XG[row, column]), leaving_X[row], coming_G[column]


def _pairs_by_shard(parts: Integers, shard_Y: Integers) -> Integers:
    """Return all pairs of these parts that share a shard; shape [G, 2]."""
    by_shard = parts[np.argsort(shard_Y[parts], kind="stable")]
    shard_of = shard_Y[by_shard]
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for distance in range(1, int(np.bincount(shard_of).max(initial=0))):
        first = np.flatnonzero(shard_of[distance:] == shard_of[:-distance])
        pairs.append(np.stack([by_shard[first], by_shard[first + distance]], axis=1))
    return np.concatenate(pairs)


def _toll_of(state: _State, parts: Integers, *, start: int | Integers, end: int | Integers) -> Floats:
    home, toll = state.home_Y[parts], state.toll_Y[parts]
    change: Floats = toll * np.not_equal(end, home) - toll * np.not_equal(start, home)
    return change


def _above(high_2S: Floats) -> Floats:
    above_S: Floats = np.where(high_2S > 1 + EPSILON, high_2S - 1, 0.0).sum(axis=0)
    return above_S
