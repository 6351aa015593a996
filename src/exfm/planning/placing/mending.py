"""An old placement changed where it must be: new parts find a shard, and few bytes move to keep within limits.

Legend: P parts, S shards.
"""

import numpy as np
import numpy.typing as npt

from exfm.planning.placing.exact import is_small, move_exactly
from exfm.planning.placing.repair import EPSILON, heights_of, repair

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

NOWHERE = -1
"""The home of a part that no shard holds yet."""


def mend(home_P: Integers, heights_2P: Floats, tolls_P: Floats, num_shards: int) -> Integers | None:
    """Return a placement with no shard higher than 1 and little toll; None if none was found.

    A part away from home costs its toll. Few parts on few shards are moved as cheaply as can be. Of more, those without
    a home come first, the highest to where it adds least; then tabu search moves what it must; then what has room at
    home after all goes back.
    """
    if is_small(len(home_P), num_shards):
        tolls_PS = np.where(np.arange(num_shards) == home_P[:, None], 0.0, tolls_P[:, None])
        exact = move_exactly(heights_2P, np.where(home_P[:, None] == NOWHERE, 0.0, tolls_PS))
        if exact is not None and heights_of(exact, heights_2P, num_shards).max() <= 1 + EPSILON:
            return exact
    start = _settle(home_P, heights_2P, num_shards)
    shard_of, is_found = repair(start, heights_2P, num_shards, tolls_P=np.where(home_P == NOWHERE, 0.0, tolls_P))
    return _go_home(shard_of, home_P, heights_2P, tolls_P, num_shards) if is_found else None


def _settle(home_P: Integers, heights_2P: Floats, num_shards: int) -> Integers:
    shard_of = home_P.copy()
    settled = home_P != NOWHERE
    high_2S = heights_of(home_P[settled], heights_2P[:, settled], num_shards)
    for part in np.argsort(-heights_2P.max(axis=0), kind="stable"):
        if not settled[part]:
            shard_of[part] = int((high_2S + heights_2P[:, part, None]).max(axis=0).argmin())
            high_2S[:, shard_of[part]] += heights_2P[:, part]
    return shard_of


def _go_home(shard_of: Integers, home_P: Integers, heights_2P: Floats, tolls_P: Floats, num_shards: int) -> Integers:
    shard_of = shard_of.copy()
    away = np.flatnonzero((home_P != NOWHERE) & (shard_of != home_P))
    high_2S = heights_of(shard_of, heights_2P, num_shards)
    for part in away[np.argsort(-tolls_P[away], kind="stable")]:
        if (high_2S[:, home_P[part]] + heights_2P[:, part] <= 1 + EPSILON).all():
            high_2S[:, shard_of[part]] -= heights_2P[:, part]
            high_2S[:, home_P[part]] += heights_2P[:, part]
            shard_of[part] = home_P[part]
    return shard_of
