"""Candidate plans: placements with the servers that they need to meet a demand."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from exfm.artifact.plan import ShardPlan, assign
from exfm.planning.config import ShardingConfig
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.enumerator import assignments
from exfm.planning.placement import Placement
from exfm.planning.topology import Fleet, Needs, fleet_of, needs_of
from exfm.schema import Schema

if TYPE_CHECKING:
    from exfm.planning.simulation.simulator import Prediction

UTILISATION_STEPS = tuple(0.9**power for power in range(18))
"""Shares of the demand's `max_utilisation` to try for a latency limit: less busy servers answer sooner."""


@dataclass(frozen=True)
class Infeasible:
    """The result for a placement that misses the latency limit with any fleet that was tried."""

    p99_ms: float
    """99th percentile of latency with the largest fleet that was tried."""
    problem: str
    """A sentence with the numbers, and what to do."""


@dataclass(frozen=True)
class CandidatePlan:
    """A placement with its servers."""

    placement: Placement
    needs: Needs
    fleet: Fleet

    def plan(self, schema: Schema, *, strategy: str) -> ShardPlan:
        """Return the candidate as a plan.

        Raises: PlanError if the placement has the tables of another schema.
        """
        placement, parts = self.placement, self.placement.parts
        found = assignments(parts, placement.shard_of)
        return ShardPlan(
            strategy=strategy,
            num_shards=placement.num_shards,
            replicas=self.fleet.replicas,
            rankers=self.fleet.rankers,
            slices=assign(schema, found, placement.num_shards, encoding=parts.encoding),
        )


def candidate_of(placement: Placement, config: ShardingConfig, costs: CostModel) -> CandidatePlan:
    """Return a placement with the fewest servers for its load, whatever the latency."""
    needs = needs_of(placement, costs)
    return CandidatePlan(placement, needs, fleet_of(needs, config, costs, utilisation=config.demand.max_utilisation))


def meet(
    candidate: CandidatePlan, schema: Schema, config: ShardingConfig, costs: CostModel, *, most_cost: float = math.inf
) -> CandidatePlan | Infeasible:
    """Return a candidate with the fewest servers whose simulated latency is within the limit, or Infeasible.

    There is a fleet for each of UTILISATION_STEPS. The search assumes that the 99th percentile falls as servers are
    added, so it needs few simulations. Other requests confirm the fleet; if they do not, the search goes on with larger
    ones. A fleet above `most_cost` is infeasible; below it, `most_cost` does not change the result.
    """
    if not config.demand.p99_ms:
        return candidate
    # numba takes a second to load, and a demand without a latency limit does not need it
    from exfm.planning.perf_model.forecast import confirmed, forecast

    def meets(prediction: "Prediction") -> bool:
        return prediction.p99_ms <= config.demand.p99_ms and not prediction.is_overloaded

    steps = (config.demand.max_utilisation * step for step in UTILISATION_STEPS)
    fleets = list(dict.fromkeys(fleet_of(candidate.needs, config, costs, utilisation=step) for step in steps))
    places = range(len(fleets))
    quick = cache(lambda place: forecast(replace(candidate, fleet=fleets[place]), schema, config, costs))
    sure = cache(lambda place: confirmed(replace(candidate, fleet=fleets[place]), schema, config, costs))

    def search(predict: Callable[[int], "Prediction"], first: int) -> int:
        """Return the first fleet, from `first` on, that is predicted to meet the demand or costs more than allowed."""
        return bisect_left(
            places, True, lo=first, key=lambda place: fleets[place].cost > most_cost or meets(predict(place))
        )

    first = min(search(quick, 0), len(fleets) - 1)
    if fleets[first].cost <= most_cost and not meets(sure(first)):
        first = search(sure, first + 1)
    if first < len(fleets) and fleets[first].cost <= most_cost:
        return replace(candidate, fleet=fleets[first])
    within = [place for place in places if fleets[place].cost <= most_cost] or [0]
    prediction, fleet = sure(within[-1]), fleets[within[-1]]
    return Infeasible(
        prediction.p99_ms,
        f"{candidate.placement.strategy}: 99 % of requests take {prediction.p99_ms:.3g} ms or less with {fleet.pods} "
        f"pods at {config.demand.requests_per_s:g} requests/s; p99_ms is {config.demand.p99_ms:g}: raise it, or take "
        "a strategy that calls fewer shards or spreads the work over more shards",
    )
