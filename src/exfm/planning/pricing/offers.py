"""Placements with the servers that they need to meet a demand."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from exfm.artifact.plan import ShardPlan
from exfm.planning.config import ShardingConfig
from exfm.planning.placing.placement import Placement, plan_of
from exfm.planning.pricing.costs import CostModel
from exfm.planning.pricing.fleet import Fleet, Needs, fleet_of, needs_of
from exfm.schema import Schema

if TYPE_CHECKING:
    from exfm.planning.simulation.simulator import Prediction

UTILISATION_STEPS = tuple(0.9**power for power in range(18))
"""Of the demand's `max_utilisation`, tried where a latency is wanted: a request waits less for servers less busy."""


@dataclass(frozen=True)
class Miss:
    """What is too slow however many servers it has."""

    p99_ms: float
    """With the most servers that were tried."""
    problem: str
    """A sentence with the numbers, and what to do."""


@dataclass(frozen=True)
class Offer:
    """A placement and the servers for it."""

    placement: Placement
    needs: Needs
    fleet: Fleet

    def plan(self, schema: Schema, *, strategy: str) -> ShardPlan:
        """Return it as a plan."""
        fleet = self.fleet
        return plan_of(self.placement, schema, strategy=strategy, replicas=fleet.replicas, rankers=fleet.rankers)


def cheapest_fleet(placement: Placement, config: ShardingConfig, costs: CostModel) -> Offer:
    """Return a placement with the servers that its load needs, whatever its latency."""
    needs = needs_of(placement, costs)
    return Offer(placement, needs, fleet_of(needs, config, costs, utilisation=config.demand.max_utilisation))


def meet(
    offer: Offer, schema: Schema, config: ShardingConfig, costs: CostModel, *, most_cost: float = math.inf
) -> Offer | Miss:
    """Return an offer with the fewest servers whose simulated latency is within the objective, or how far it is off.

    That is of 18 fleets, each for a tenth less utilisation than the one before. The 99th percentile is taken to fall as
    servers are added, so a few simulations find the fleet; it is confirmed on other requests, and a larger one taken
    until it is. A fleet above `most_cost` is a miss; what is below is found alike whatever `most_cost` is.
    """
    if not config.demand.p99_ms:
        return offer
    # numba takes a second to load, and what has no objective does not need it
    from exfm.planning.pricing.forecast import confirmed, forecast

    def meets(prediction: "Prediction") -> bool:
        return prediction.p99_ms <= config.demand.p99_ms and not prediction.is_overloaded

    steps = (config.demand.max_utilisation * step for step in UTILISATION_STEPS)
    fleets = list(dict.fromkeys(fleet_of(offer.needs, config, costs, utilisation=step) for step in steps))
    places = range(len(fleets))
    quick = cache(lambda place: forecast(offer.placement, fleets[place], schema, config, costs))
    sure = cache(lambda place: confirmed(offer.placement, fleets[place], schema, config, costs))

    def search(predict: Callable[[int], "Prediction"], first: int) -> int:
        """Return the first fleet, from `first` on, that is predicted to meet the demand, or is too dear to be asked."""
        return bisect_left(
            places, True, lo=first, key=lambda place: fleets[place].cost > most_cost or meets(predict(place))
        )

    first = min(search(quick, 0), len(fleets) - 1)
    if fleets[first].cost <= most_cost and not meets(sure(first)):
        first = search(sure, first + 1)
    if first < len(fleets) and fleets[first].cost <= most_cost:
        return replace(offer, fleet=fleets[first])
    within = [place for place in places if fleets[place].cost <= most_cost] or [0]
    prediction, fleet = sure(within[-1]), fleets[within[-1]]
    return Miss(
        prediction.p99_ms,
        f"{offer.placement.strategy}: 99 % of requests take {prediction.p99_ms:.3g} ms or less with {fleet.pods} pods "
        f"at {config.demand.requests_per_s:g} requests/s; p99_ms is {config.demand.p99_ms:g}: raise it, or take a "
        "strategy that calls fewer shards or shares work among more",
    )
