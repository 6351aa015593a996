"""Tabu search over moves and swaps of parts, until no shard is overloaded.

Legend: P parts; S shards; 2 kinds of load, as shares of a shard's limits; Y what a shard may take in exchange: each
part, then for each shard an empty entry, which has no load; X groups of a shard's own parts; G groups of Y.
"""

from dataclasses import dataclass

import numpy as np

from exfm.planning.arrays import Booleans, Floats, Integers

NUM_STEPS = 600
"""Maximum number of steps in a search."""

TENURE = (3, 12)
"""Range of the number of steps that a moved part stays where it is; the upper end is exclusive."""

EPSILON = 1e-11
"""Tolerance of a load of 1: above the rounding error of sums of floats, below 64 B of 4 TiB."""


def tabu_search(
    shard_of: Integers, loads_2P: Floats, num_shards: int, *, migration_costs_P: Floats | None = None
) -> tuple[Integers, bool]:
    """Return a placement, and whether no shard's load exceeds 1 in it, in either row of `loads_2P`.

    Each step moves parts off an overloaded shard, in exchange for parts of another shard or for nothing. It takes the
    exchange with the lowest overload of the two shards, even if that is higher than before. A moved part then stays for
    some steps (tabu), which leads the search out of local optima. If the search fails, it returns the placement with
    the lowest overload.

    `migration_costs_P` has the cost of each part on another shard than in `shard_of`, in the unit of overload.
    """
    random = np.random.default_rng(0)
    state = _State.of(shard_of, loads_2P, num_shards, migration_costs_P)
    least, best = np.inf, shard_of
    for step in range(NUM_STEPS):
        overload_S = _overload(state.shard_load_2S)
        total = float(overload_S.sum())
        if total < least:
            least, best = total, state.shard_Y[state.is_part_Y]
        if total == 0:
            return best, True
        overloaded = np.flatnonzero(overload_S)
        shard = int(overload_S.argmax() if random.random() < 0.5 else random.choice(overloaded))
        movable_Y = state.free_from_Y <= step
        own = np.flatnonzero(movable_Y & (state.shard_Y == shard) & state.is_part_Y)
        others = np.flatnonzero(movable_Y & (state.shard_Y != shard))
        if len(own) and len(others):
            leaving, coming = _best_exchange(state, overload_S, shard, own, others)
            state.exchange(leaving, coming)
            moved = np.concatenate([leaving, coming])
            state.free_from_Y[moved] = step + 1 + random.integers(*TENURE, size=len(moved))
            state.free_from_Y[state.num_parts :] = 0
    return best, False


def loads_of(shard_of: Integers, loads_2P: Floats, num_shards: int) -> Floats:
    """Return the load of each shard; shape [2, S]."""
    return np.stack([np.bincount(shard_of, row, num_shards) for row in loads_2P]).astype(np.float64)


@dataclass
class _State:
    num_parts: int
    is_part_Y: Booleans
    shard_Y: Integers
    home_Y: Integers
    migration_cost_Y: Floats
    free_from_Y: Integers
    """The first step in which each may move again."""
    load_2Y: Floats
    shard_load_2S: Floats

    @classmethod
    def of(cls, shard_of: Integers, loads_2P: Floats, num_shards: int, migration_costs_P: Floats | None) -> "_State":
        shard_Y = np.concatenate([shard_of, np.arange(num_shards)])
        nothing = np.zeros(num_shards)
        return cls(
            num_parts=len(shard_of),
            is_part_Y=np.arange(len(shard_Y)) < len(shard_of),
            shard_Y=shard_Y,
            home_Y=shard_Y.copy(),
            migration_cost_Y=np.concatenate(
                [np.zeros(len(shard_of)) if migration_costs_P is None else migration_costs_P, nothing]
            ),
            free_from_Y=np.zeros(len(shard_Y), dtype=np.int64),
            load_2Y=np.concatenate([loads_2P, np.stack([nothing, nothing])], axis=1),
            shard_load_2S=loads_of(shard_of, loads_2P, num_shards),
        )

    def exchange(self, leaving: Integers, coming: Integers) -> None:
        start, end = self.shard_Y[leaving[0]], self.shard_Y[coming[0]]
        moved_2 = self.load_2Y[:, leaving].sum(axis=1) - self.load_2Y[:, coming].sum(axis=1)
        self.shard_load_2S[:, start] -= moved_2
        self.shard_load_2S[:, end] += moved_2
        self.shard_Y[leaving] = end
        self.shard_Y[coming[self.is_part_Y[coming]]] = start


def _best_exchange(
    state: _State, overload_S: Floats, shard: int, own: Integers, others: Integers
) -> tuple[Integers, Integers]:
    """Return the parts that leave a shard in the best exchange, and what comes; pairs only if single parts fail."""
    own_X1, others_G1 = own[:, None], others[:, None]
    change, leaving, coming = _best_of(state, overload_S, shard, own_X1, others_G1)
    if change <= -EPSILON:
        return leaving, coming
    own_X2 = own[np.stack(np.triu_indices(len(own), 1), axis=1)]
    others_G2 = _pairs_by_shard(others[state.is_part_Y[others]], state.shard_Y)
    for groups, in_exchange in ((own_X2, others_G1), (own_X1, others_G2)):
        if len(groups) and len(in_exchange):
            change_here, leaving_here, coming_here = _best_of(state, overload_S, shard, groups, in_exchange)
            if change_here < change:
                change, leaving, coming = change_here, leaving_here, coming_here
    return leaving, coming


def _best_of(
    state: _State, overload_S: Floats, shard: int, leaving_X: Integers, coming_G: Integers
) -> tuple[float, Integers, Integers]:
    """Return the change of overload by the best exchange, and what leaves and comes in it."""
    to_G = state.shard_Y[coming_G[:, 0]]
    change_XG = -overload_S[shard] - np.broadcast_to(overload_S[to_G], (len(leaving_X), len(coming_G)))
    for load_Y, load_S in zip(state.load_2Y, state.shard_load_2S, strict=True):
        moved_XG = load_Y[leaving_X].sum(axis=1)[:, None] - load_Y[coming_G].sum(axis=1)
        change_XG += np.maximum(load_S[shard] - 1 - moved_XG, 0)
        change_XG += np.maximum(load_S[to_G] - 1 + moved_XG, 0)
    if state.migration_cost_Y.any():
        for part_X in leaving_X.T:
            change_XG += _migration_cost_of(state, part_X[:, None], start=shard, end=to_G)
        for part_G in coming_G.T:
            change_XG += _migration_cost_of(state, part_G, start=to_G, end=shard)
    row, column = divmod(int(change_XG.argmin()), len(coming_G))
    return float(change_XG[row, column]), leaving_X[row], coming_G[column]


def _pairs_by_shard(parts: Integers, shard_Y: Integers) -> Integers:
    """Return all pairs of these parts that are on the same shard; shape [G, 2]."""
    by_shard = parts[np.argsort(shard_Y[parts], kind="stable")]
    shard_of = shard_Y[by_shard]
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for distance in range(1, int(np.bincount(shard_of).max(initial=0))):
        first = np.flatnonzero(shard_of[distance:] == shard_of[:-distance])
        pairs.append(np.stack([by_shard[first], by_shard[first + distance]], axis=1))
    return np.concatenate(pairs)


def _migration_cost_of(state: _State, parts: Integers, *, start: int | Integers, end: int | Integers) -> Floats:
    home, cost = state.home_Y[parts], state.migration_cost_Y[parts]
    change: Floats = cost * np.not_equal(end, home) - cost * np.not_equal(start, home)
    return change


def _overload(shard_load_2S: Floats) -> Floats:
    overload_S: Floats = np.where(shard_load_2S > 1 + EPSILON, shard_load_2S - 1, 0.0).sum(axis=0)
    return overload_S
