"""A plan for a model: by the strategy that its settings name, or the cheapest of all.

`auto` takes the cheapest offer that meets the demand, of every other strategy and of its own cuts; all are priced and
forecast alike. So it never costs more than the cheapest other that meets the demand.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from exfm.artifact.plan import ShardPlan, row_bytes
from exfm.errors import PlanError
from exfm.planning.config import MAX_SHARDS, ShardingConfig, Strategy
from exfm.planning.placing.cuts import placements_by_density
from exfm.planning.placing.placement import Placement
from exfm.planning.placing.strategies import place_by_capacity, place_by_load, place_by_net, place_on_one
from exfm.planning.pricing.costs import CostModel
from exfm.planning.pricing.offers import Miss, Offer, cheapest_fleet, meet
from exfm.planning.sizes import bytes_text
from exfm.planning.statistics import Statistics
from exfm.schema import Schema

Placing = Callable[[Statistics, ShardingConfig, CostModel], Placement]

PLACINGS: dict[Strategy, Placing] = {
    "singular": lambda statistics, config, costs: place_on_one("singular", statistics, config, costs),
    "one-shard": lambda statistics, config, costs: place_on_one("one-shard", statistics, config, costs),
    "capacity-balanced": place_by_capacity,
    "load-balanced": place_by_load,
    "nsbp": place_by_net,
}
"""Every strategy but `auto`."""

EVEN: tuple[Strategy, ...] = ("capacity-balanced", "load-balanced")

FILL, SHARD_FACTORS = 0.9, (1, 2, 4)
"""Numbers of shards that `auto` tries: as many as hold the tables when so full, and multiples of that."""


def make_plan(schema: Schema, statistics: Statistics, config: ShardingConfig, costs: CostModel) -> ShardPlan:
    """Return a plan by the configured strategy: complete, within every shard's memory, and with replicas for its load.

    Raises: PlanError if the statistics are of other tables, the tables do not fit, or no plan meets the demand.
    """
    offer = make_offer(schema, statistics, config, costs)
    return offer.plan(schema, strategy=plan_name(config.strategy, offer))


def plan_name(strategy: Strategy, offer: Offer) -> str:
    """Return what a plan of this offer calls its strategy: `auto` says whose placement it took, if not its own."""
    placed_by = offer.placement.strategy
    return strategy if placed_by == strategy else f"{strategy}: {placed_by}"


def headline(plan: ShardPlan) -> str:
    """Return one line about a plan."""
    hot_rows = sum(slice_.num_rows for slice_ in plan.slices if slice_.kind == "hot")
    hot = f", {hot_rows:,} hot rows copied" if hot_rows else ""
    rankers = f", {plan.rankers} ranker{'s' * (plan.rankers > 1)}" if plan.rankers else ""
    return (
        f"{plan.strategy}: {len(plan.by_table())} tables in {len(plan.slices)} slices, {plan.num_shards} "
        f"shard{'s' * (plan.num_shards > 1)}, {sum(plan.replicas)} server{'s' * (sum(plan.replicas) > 1)}{rankers}{hot}"
    )


def make_offer(schema: Schema, statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Offer:
    """Return what `make_plan` makes a plan of.

    Raises: PlanError, as `make_plan`.
    """
    check_statistics(schema, statistics)
    if config.strategy == "auto":
        found, _ = place_by_all(statistics, config, costs)
        met = cheapest(placements_for_auto(found, statistics, config, costs), schema, config, costs)
    else:
        placement = PLACINGS[config.strategy](statistics, config, costs)
        met = meet(cheapest_fleet(placement, config, costs), schema, config, costs)
    if isinstance(met, Miss):
        raise PlanError(met.problem)
    return met


def place_by_all(
    statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> tuple[dict[Strategy, Placement], dict[Strategy, PlanError]]:
    """Return every strategy's placement, `auto` aside, and why the others have none."""
    found: dict[Strategy, Placement] = {}
    refused: dict[Strategy, PlanError] = {}
    for strategy, place in PLACINGS.items():
        try:
            found[strategy] = place(statistics, config, costs)
        except PlanError as error:
            refused[strategy] = error
    return found, refused


def placements_for_auto(
    found: Mapping[Strategy, Placement], statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> list[Placement]:
    """Return what `auto` chooses from: what the strategies found, placements by density, and where a latency is wanted,
    even ones on other numbers of shards. No singular one: `exfm deploy` rolls none out as yet.

    Raises: PlanError if a row of a table is larger than a shard.
    """
    deployable = [placement for placement in found.values() if not placement.is_singular]
    placements = [*deployable, *placements_by_density(statistics, config, costs)]
    total_bytes = statistics.size_bytes(config.encoding)
    fewest = math.ceil(total_bytes / (FILL * config.capacity_bytes))
    for factor in SHARD_FACTORS if config.demand.p99_ms else ():
        other = config.model_copy(update={"num_shards": factor * fewest})
        if other.num_shards <= MAX_SHARDS and other.num_shards != config.num_shards:
            placed, _ = place_by_all(statistics, other, costs)
            placements += [placed[name] for name in EVEN if name in placed]
    return [placement for placement in placements if placement.num_shards <= MAX_SHARDS]


def cheapest(placements: Sequence[Placement], schema: Schema, config: ShardingConfig, costs: CostModel) -> Offer | Miss:
    """Return the cheapest offer that meets the demand, or by how much the nearest misses it.

    Raises: PlanError if there are no placements.
    """
    if not placements:
        total_bytes = sum(table.rows * row_bytes(table.dim, config.encoding) for table in schema.tables)
        raise PlanError(
            f"auto: no way was found to place tables that take {bytes_text(total_bytes)} on {MAX_SHARDS} shards of "
            f"{bytes_text(config.capacity_bytes)}, the most that a plan may have; raise shard_memory_gib "
            f"({config.shard_memory_gib:g})"
        )
    best: Offer | None = None
    nearest: Miss | None = None
    offers = [cheapest_fleet(placement, config, costs) for placement in placements]
    for offer in sorted(offers, key=lambda offer: (offer.fleet.cost, offer.fleet.pods)):
        most_cost = best.fleet.cost if best else math.inf
        if offer.fleet.cost >= most_cost:
            break  # no more servers would make this one cheaper, nor those after it
        met = meet(offer, schema, config, costs, most_cost=most_cost)
        if isinstance(met, Miss):
            nearest = min(nearest or met, met, key=lambda miss: miss.p99_ms)
        elif met.fleet.cost < most_cost:
            best = met
    if best:
        return best
    assert nearest, "of placements, the cheapest is never passed over"
    return Miss(nearest.p99_ms, f"no plan answers in time; the nearest of {len(offers)}: {nearest.problem}")


def check_statistics(schema: Schema, statistics: Statistics) -> None:
    """Return if the statistics are of the schema's tables, and of the same rows and dims.

    Raises: PlanError, which names the first table that differs.
    """
    counted = {table.name: table for table in statistics.tables}
    for table in schema.tables:
        found = counted.pop(table.name, None)
        if found is None:
            raise PlanError(f"table {table.name!r} of the schema is not in the statistics; count them again")
        if (found.rows, found.dim) != (table.rows, table.dim):
            raise PlanError(
                f"table {table.name!r} has {table.rows} rows of dim {table.dim}, but was counted with {found.rows} of "
                f"dim {found.dim}; count again with this model"
            )
    if counted:
        raise PlanError(f"the statistics have table {min(counted)!r}, which the schema does not; count them again")
