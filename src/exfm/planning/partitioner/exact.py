"""Optimal placement of few parts on few shards, by the mixed-integer solver HiGHS.

Legend: P parts, S shards.
"""

from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, eye_array, hstack, kron

from exfm.planning.arrays import Floats, Integers

MAX_PAIRS = 256
"""Maximum number of pairs of a part and a shard in a problem for the solver."""

MAX_NODES = 200
"""Maximum number of nodes in the solver's tree. A time limit would make plans depend on the machine."""


def is_small(num_parts: int, num_shards: int) -> bool:
    """Return whether the problem is small enough for the solver."""
    return num_parts * num_shards <= MAX_PAIRS


def place_exactly(
    weights_P: Floats, fills_P: Floats, num_shards: int, *, at_least: float
) -> tuple[Integers | None, float]:
    """Return the placement with the lowest bottleneck, and a lower bound of it; `at_least` is a bound known before.

    The fills of each shard sum to at most 1. The placement is optimal unless the solver's tree grew too large; then it
    is the best one found, or None. If no placement exists, it is None and the bound is infinite.
    """
    num_parts = len(weights_P)
    scale = float(weights_P.sum()) or 1.0
    pairs = num_parts * num_shards
    placed_once = hstack([_on_some_shard(num_parts, num_shards), csr_array((num_parts, 1))])
    balanced = hstack([kron(weights_P[None, :] / scale, eye_array(num_shards)), -np.ones((num_shards, 1))])
    held = hstack([kron(fills_P[None, :], eye_array(num_shards)), csr_array((num_shards, 1))])
    allowed_PS = np.ones((num_parts, num_shards))
    for rank, part in enumerate(np.argsort(-weights_P, kind="stable")[:num_shards]):
        allowed_PS[part, rank + 1 :] = 0  # shards are interchangeable: fix the heaviest part to the first, and so on
    result = milp(
        np.append(np.zeros(pairs), 1.0),
        constraints=[
            LinearConstraint(placed_once, 1, 1),
            LinearConstraint(balanced, -np.inf, 0),
            LinearConstraint(held, -np.inf, 1),
        ],
        integrality=np.append(np.ones(pairs), 0),
        bounds=Bounds(np.append(np.zeros(pairs), at_least / scale), np.append(allowed_PS.ravel(), np.inf)),
        options={"node_limit": MAX_NODES, "mip_rel_gap": 1e-4},
    )
    if result.status == 2:  # infeasible
        return None, float("inf")
    bound = max(at_least, (result.mip_dual_bound or 0.0) * scale)
    if result.x is None:
        return None, bound
    return _shard_of(result.x[:pairs], num_shards), bound


def move_exactly(loads_2P: Floats, migration_costs_PS: Floats) -> Integers | None:
    """Return the placement of lowest migration cost in which no shard's load exceeds 1 in either row of `loads_2P`.

    None if there is none, or none was found within MAX_NODES. Loads may exceed 1 by the solver's tolerance of 1e-6, so
    the caller must check them.
    """
    num_parts, num_shards = migration_costs_PS.shape
    most = [LinearConstraint(kron(row_P[None, :], eye_array(num_shards)), -np.inf, 1) for row_P in loads_2P]
    result = milp(
        migration_costs_PS.ravel(),
        constraints=[LinearConstraint(_on_some_shard(num_parts, num_shards), 1, 1), *most],
        integrality=np.ones(migration_costs_PS.size),
        bounds=Bounds(0, 1),
        options={"node_limit": MAX_NODES, "mip_rel_gap": 1e-4},
    )
    return None if result.x is None else _shard_of(result.x, num_shards)


def _on_some_shard(num_parts: int, num_shards: int) -> Any:
    return kron(eye_array(num_parts), np.ones((1, num_shards)))


def _shard_of(pairs: Floats, num_shards: int) -> Integers:
    shard_of: Integers = pairs.reshape(-1, num_shards).argmax(axis=1)
    return shard_of
