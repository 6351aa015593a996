"""Placing few parts on few shards, or moving them, as well as can be: by HiGHS.

Legend: P parts, S shards.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, eye_array, hstack, kron

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MAX_PAIRS = 256
"""Of a part and a shard in a small problem. One of 200 takes 10 to 600 ms (a core of a Xeon at 2.x GHz, 2026-11)."""

MAX_NODES = 200
"""Of the solver's tree: a limit on time would give other plans on other machines."""


def is_small(num_parts: int, num_shards: int) -> bool:
    """Return whether `place_exactly` is quick enough for such a problem."""
    return num_parts * num_shards <= MAX_PAIRS


def place_exactly(
    weights_P: Floats, fills_P: Floats, num_shards: int, *, at_least: float
) -> tuple[Integers | None, float]:
    """Return a placement that lets the heaviest shard bear least, and what none can go below (`at_least` it is known).

    No shard's fills sum to more than 1. The placement is the best one unless the solver's tree grew too large; then it
    is the best found, or None. It is None too where there is none, and the bound then infinite.
    """
    num_parts = len(weights_P)
    scale = float(weights_P.sum()) or 1.0
    pairs = num_parts * num_shards
    placed_once = hstack([_on_some_shard(num_parts, num_shards), csr_array((num_parts, 1))])
    borne = hstack([kron(weights_P[None, :] / scale, eye_array(num_shards)), -np.ones((num_shards, 1))])
    held = hstack([kron(fills_P[None, :], eye_array(num_shards)), csr_array((num_shards, 1))])
    allowed_PS = np.ones((num_parts, num_shards))
    for rank, part in enumerate(np.argsort(-weights_P, kind="stable")[:num_shards]):
        allowed_PS[part, rank + 1 :] = 0  # shards are alike: the heaviest part may as well be on the first, and so on
    result = milp(
        np.append(np.zeros(pairs), 1.0),
        constraints=[
            LinearConstraint(placed_once, 1, 1),
            LinearConstraint(borne, -np.inf, 0),
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


def move_exactly(heights_2P: Floats, tolls_PS: Floats) -> Integers | None:
    """Return a placement of least toll in which no shard is higher than 1 in either row of `heights`.

    None if there is none, or none was found while the solver's tree was small. It may exceed 1 by 1e-6: check it.
    """
    num_parts, num_shards = tolls_PS.shape
    most = [LinearConstraint(kron(row_P[None, :], eye_array(num_shards)), -np.inf, 1) for row_P in heights_2P]
    result = milp(
        tolls_PS.ravel(),
        constraints=[LinearConstraint(_on_some_shard(num_parts, num_shards), 1, 1), *most],
        integrality=np.ones(tolls_PS.size),
        bounds=Bounds(0, 1),
        options={"node_limit": MAX_NODES, "mip_rel_gap": 1e-4},
    )
    return None if result.x is None else _shard_of(result.x, num_shards)


def _on_some_shard(num_parts: int, num_shards: int) -> Any:
    return kron(eye_array(num_parts), np.ones((1, num_shards)))


def _shard_of(pairs: Floats, num_shards: int) -> Integers:
    shard_of: Integers = pairs.reshape(-1, num_shards).argmax(axis=1)
    return shard_of
