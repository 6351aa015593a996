"""Placements with the servers that they need to meet a demand."""

import math
from bisect import bisect_left
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

    The 99th percentile is taken to fall as servers are added, so a few simulations find their number; it is confirmed
    on other requests, and servers are added until it is. No fleet above `most_cost` is tried.
    """
    if not config.demand.p99_ms:
        return offer
    # numba takes a second to load, and what has no objective does not need it
    from exfm.planning.pricing.forecast import confirmed, forecast

    def meets(prediction: "Prediction") -> bool:
        return prediction.p99_ms <= config.demand.p99_ms and not prediction.is_overloaded

    steps = (config.demand.max_utilisation * step for step in UTILISATION_STEPS)
    fleets = list(dict.fromkeys(fleet_of(offer.needs, config, costs, utilisation=step) for step in steps))
    fleets = [fleet for fleet in fleets if fleet.cost <= most_cost] or fleets[:1]
    first = bisect_left(fleets, True, key=lambda fleet: meets(forecast(offer.placement, fleet, schema, config, costs)))
    first = min(first, len(fleets) - 1)
    sure = cache(lambda place: confirmed(offer.placement, fleets[place], schema, config, costs))
    if not meets(sure(first)):
        first = bisect_left(range(len(fleets)), True, lo=first + 1, key=lambda place: meets(sure(place)))
    if first < len(fleets):
        return replace(offer, fleet=fleets[first])
    prediction, fleet = sure(len(fleets) - 1), fleets[-1]
    return Miss(
        prediction.p99_ms,
        f"{offer.placement.strategy}: 99 % of requests take {prediction.p99_ms:.3g} ms or less with {fleet.pods} pods "
        f"at {config.demand.requests_per_s:g} requests/s; p99_ms is {config.demand.p99_ms:g}: raise it, or take a "
        "strategy that calls fewer shards or shares work among more",
    )
