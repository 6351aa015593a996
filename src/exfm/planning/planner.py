"""The planner: a plan by the configured strategy, or for `auto` the cheapest plan that meets the demand.

`auto` compares candidate plans of every other strategy, and of its own, by one cost model and one forecast. So its plan
never costs more than the cheapest plan of another strategy that meets the demand.
"""

import math
from collections.abc import Sequence

from exfm.artifact.plan import ShardPlan, row_bytes
from exfm.errors import PlanError
from exfm.planning.config import MAX_SHARDS, ShardingConfig, Strategy
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.perf_model.candidates import CandidatePlan, Infeasible, candidate_of, meet
from exfm.planning.placement import Placement
from exfm.planning.proposer.proposals import placements_for_auto
from exfm.planning.proposer.strategies import STRATEGIES, place_by_each_strategy
from exfm.planning.sizes import bytes_text
from exfm.planning.statistics import Statistics, check_statistics
from exfm.schema import Schema


def make_plan(schema: Schema, statistics: Statistics, config: ShardingConfig, costs: CostModel) -> ShardPlan:
    """Return a plan by the configured strategy: complete, within every shard's memory, and with servers for its load.

    Raises: PlanError if the statistics have other tables, the tables do not fit, or no plan meets the demand.
    """
    candidate = best_candidate(schema, statistics, config, costs)
    return candidate.plan(schema, strategy=plan_name(config.strategy, candidate))


def plan_name(strategy: Strategy, candidate: CandidatePlan) -> str:
    """Return the strategy that a plan of this candidate states; `auto` names the strategy that it chose, too."""
    placed_by = candidate.placement.strategy
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


def best_candidate(schema: Schema, statistics: Statistics, config: ShardingConfig, costs: CostModel) -> CandidatePlan:
    """Return the candidate that `make_plan` turns into a plan.

    Raises: PlanError, as `make_plan`.
    """
    check_statistics(schema, statistics)
    if config.strategy == "auto":
        found, _ = place_by_each_strategy(statistics, config, costs)
        met = cheapest(placements_for_auto(found, statistics, config, costs), schema, config, costs)
    else:
        placement = STRATEGIES[config.strategy](statistics, config, costs)
        met = meet(candidate_of(placement, config, costs), schema, config, costs)
    if isinstance(met, Infeasible):
        raise PlanError(met.problem)
    return met


def cheapest(
    placements: Sequence[Placement], schema: Schema, config: ShardingConfig, costs: CostModel
) -> CandidatePlan | Infeasible:
    """Return the cheapest candidate that meets the demand, or the infeasible one with the lowest latency.

    Raises: PlanError if there are no placements.
    """
    if not placements:
        total_bytes = sum(table.rows * row_bytes(table.dim, config.encoding) for table in schema.tables)
        raise PlanError(
            f"auto: no placement was found for tables of {bytes_text(total_bytes)} on {MAX_SHARDS} shards of "
            f"{bytes_text(config.capacity_bytes)}, the maximum of a plan; raise shard_memory_gib "
            f"({config.shard_memory_gib:g})"
        )
    best: CandidatePlan | None = None
    nearest: Infeasible | None = None
    candidates = [candidate_of(placement, config, costs) for placement in placements]
    for candidate in sorted(candidates, key=lambda candidate: (candidate.fleet.cost, candidate.fleet.pods)):
        most_cost = best.fleet.cost if best else math.inf
        if candidate.fleet.cost >= most_cost:
            break  # more servers cannot make this candidate cheaper, nor any after it
        met = meet(candidate, schema, config, costs, most_cost=most_cost)
        if isinstance(met, Infeasible):
            nearest = min(nearest or met, met, key=lambda infeasible: infeasible.p99_ms)
        elif met.fleet.cost < most_cost:
            best = met
    if best:
        return best
    assert nearest, "the loop tries the cheapest candidate"
    return Infeasible(
        nearest.p99_ms, f"no plan meets p99_ms; the nearest of {len(candidates)} candidates: {nearest.problem}"
    )
