"""Local repair: an old placement, changed only where necessary, at a low migration cost.

Legend: P parts, S shards; 2 kinds of load: the balanced weight and the bytes, as shares of a shard's limits.
"""

import numpy as np

from exfm.planning.arrays import Floats, Integers
from exfm.planning.partitioner.exact import is_small, move_exactly
from exfm.planning.partitioner.packing import NOWHERE, place_greedily
from exfm.planning.partitioner.tabu_search import EPSILON, loads_of, tabu_search


def repair_locally(home_P: Integers, loads_2P: Floats, migration_costs_P: Floats, num_shards: int) -> Integers | None:
    """Return a placement with no shard's load above 1 and a low migration cost; None if none was found.

    `home_P` is the shard of each part in the old placement. A part on any other shard has its migration cost. The
    solver handles small problems. For others, parts without a home are placed first; then tabu search moves parts until
    all loads are within 1; then parts return to their homes where they fit.
    """
    if is_small(len(home_P), num_shards):
        migration_costs_PS = np.where(np.arange(num_shards) == home_P[:, None], 0.0, migration_costs_P[:, None])
        exact = move_exactly(loads_2P, np.where(home_P[:, None] == NOWHERE, 0.0, migration_costs_PS))
        if exact is not None and loads_of(exact, loads_2P, num_shards).max() <= 1 + EPSILON:
            return exact
    start = place_greedily(home_P, loads_2P, num_shards)
    shard_of, is_found = tabu_search(
        start, loads_2P, num_shards, migration_costs_P=np.where(home_P == NOWHERE, 0.0, migration_costs_P)
    )
    return _return_home(shard_of, home_P, loads_2P, migration_costs_P, num_shards) if is_found else None


def _return_home(
    shard_of: Integers, home_P: Integers, loads_2P: Floats, migration_costs_P: Floats, num_shards: int
) -> Integers:
    shard_of = shard_of.copy()
    away = np.flatnonzero((home_P != NOWHERE) & (shard_of != home_P))
    shard_load_2S = loads_of(shard_of, loads_2P, num_shards)
    for part in away[np.argsort(-migration_costs_P[away], kind="stable")]:
        if (shard_load_2S[:, home_P[part]] + loads_2P[:, part] <= 1 + EPSILON).all():
            shard_load_2S[:, shard_of[part]] -= loads_2P[:, part]
            shard_load_2S[:, home_P[part]] += loads_2P[:, part]
            shard_of[part] = home_P[part]
    return shard_of
