"""A placement of parts on shards: every strategy returns one, and a plan is made from one.

Legend: P parts, S shards.
"""

from dataclasses import dataclass

import numpy as np

from exfm.artifact.plan import ShardPlan
from exfm.planning.arrays import Floats, Integers
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.cost_model.work import tables_of
from exfm.planning.enumerator import Balances, Parts
from exfm.planning.partitioner.bounds import distance
from exfm.planning.statistics import Statistics

SINGULAR = "singular"

BALANCED: dict[str, Balances] = {"capacity-balanced": "bytes", "nsbp": "bytes", "load-balanced": "work"}
"""What strategies balance; the others balance nothing."""


@dataclass(frozen=True)
class Placement:
    """A shard for each part."""

    strategy: str
    """The strategy that made the placement; `singular`: the one shard is in the ranker's own process."""
    parts: Parts
    shard_of: Integers
    """Shape [P]."""
    num_shards: int
    bound: float | None = None
    """Lower bound of the bottleneck for these parts, in bytes or in CPU seconds of a mean request."""

    @property
    def balances(self) -> Balances:
        """Return what the strategy balances over the shards."""
        return BALANCED.get(self.strategy, "nothing")

    @property
    def is_singular(self) -> bool:
        """Return whether the ranker has all tables, so that requests make no call."""
        return self.strategy == SINGULAR

    @property
    def shard_bytes(self) -> Integers:
        """Return the bytes on each shard; shape [S]."""
        return np.bincount(self.shard_of, self.parts.size_bytes, self.num_shards).astype(np.int64)

    @property
    def shard_cpu_s(self) -> Floats:
        """Return the CPU time of each shard in a mean request, without its call; shape [S]."""
        return np.bincount(self.shard_of, self.parts.cpu_s, self.num_shards).astype(np.float64)

    @property
    def distance(self) -> float | None:
        """Return the share by which the bottleneck is above its bound; None if nothing is balanced."""
        return None if self.bound is None else distance(bottleneck_of(self), self.bound)


def bottleneck_of(placement: Placement) -> float:
    """Return the highest weight of a shard: bytes or CPU seconds in a mean request, as the strategy balances."""
    weights_P = placement.parts.weights(placement.balances)
    return float(np.bincount(placement.shard_of, weights_P, placement.num_shards).max())


def placement_of(plan: ShardPlan, statistics: Statistics, costs: CostModel) -> Placement:
    """Return a plan as a placement, with the work that the statistics give.

    Raises: PlanError if the statistics lack a table of the plan.
    """
    places = {name: place for place, name in enumerate(tables_of(plan, statistics))}
    parts = Parts.measure(
        statistics,
        costs,
        encoding=plan.encoding,
        table=np.array([places[slice_.table] for slice_ in plan.slices]),
        first_row=np.array([slice_.first_row for slice_ in plan.slices]),
        num_rows=np.array([slice_.num_rows for slice_ in plan.slices]),
        is_hot=np.array([slice_.kind == "hot" for slice_ in plan.slices]),
    )
    shard_of = np.array([slice_.shard for slice_ in plan.slices])
    return Placement(base_strategy(plan), parts, shard_of, plan.num_shards)


def base_strategy(plan: ShardPlan) -> str:
    """Return the strategy that placed a plan's parts; if `auto` chose another strategy's placement, that strategy."""
    return plan.strategy.removeprefix("auto: ")
