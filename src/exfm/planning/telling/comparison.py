"""All strategies side by side, on one model under one demand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from exfm.artifact.plan import ShardPlan
from exfm.errors import PlanError
from exfm.planning.config import ShardingConfig, Strategy
from exfm.planning.placing.bounds import Bound
from exfm.planning.placing.placement import Placement
from exfm.planning.planner import (
    PLACINGS,
    cheapest,
    check_statistics,
    make_plan,
    place_by_all,
    placements_for_auto,
    plan_name,
)
from exfm.planning.pricing.bounds import least_cost
from exfm.planning.pricing.costs import CostModel
from exfm.planning.pricing.forecast import confirmed
from exfm.planning.pricing.offers import Miss, Offer, cheapest_fleet, meet
from exfm.planning.simulation.simulator import Prediction
from exfm.planning.sizes import bytes_text, three_digits
from exfm.planning.statistics import Statistics
from exfm.schema import Schema

DASH = "–"  # noqa: RUF001


@dataclass(frozen=True)
class Row:
    """One strategy: what it offers and what its servers will do, or why it has no plan."""

    strategy: Strategy
    offer: Offer | None
    prediction: Prediction | None
    problem: str
    """Why there is no offer, or why it does not meet the demand; empty: it does."""
    cost_bound: Bound | None = None
    """What no plan with shard servers costs less than, whatever its latency: of `auto`, which seeks the cheapest."""

    @property
    def meets(self) -> bool:
        """Return whether there is an offer that meets the demand."""
        return not self.problem

    @property
    def distance(self) -> float | None:
        """Return by which share it is above its bound: `auto` in cost, another in the most that a shard bears.

        None if it has no plan, or balances nothing.
        """
        if not self.offer:
            return None
        return self.cost_bound.distance(self.offer.fleet.cost) if self.cost_bound else self.offer.placement.distance

    @property
    def is_overloaded(self) -> bool:
        """Return whether its servers cannot keep up, so that its latency only tells how long was simulated."""
        return self.prediction is not None and self.prediction.is_overloaded

    @property
    def most_cpu_ms(self) -> float:
        """Return the CPU time of the busiest shard in a mean request; without calls if there are none."""
        assert self.offer is not None
        by_shard_s = self.offer.needs.shard_cpu_s
        return 1e3 * float(by_shard_s.max() if len(by_shard_s) else self.offer.placement.shard_cpu_s.max())


def compare(schema: Schema, statistics: Statistics, config: ShardingConfig, costs: CostModel) -> tuple[Row, ...]:
    """Return a row for each strategy, `auto` last; the configured one is as any other.

    Raises: PlanError if the statistics are of other tables.
    """
    check_statistics(schema, statistics)
    found, refused = place_by_all(statistics, config, costs)
    rows = [
        _row(strategy, found[strategy], schema, config, costs)
        if strategy in found
        else Row(strategy, None, None, str(refused[strategy]))
        for strategy in PLACINGS
    ]
    return (*rows, _row_of_auto(found, schema, statistics, config, costs))


def compared_plan(
    rows: Sequence[Row], schema: Schema, statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> ShardPlan:
    """Return what `make_plan` does, out of these rows of the same arguments where the strategy's meets the demand.

    Raises: PlanError, as `make_plan`.
    """
    [row] = [row for row in rows if row.strategy == config.strategy]
    if row.offer is None or not row.meets:
        return make_plan(schema, statistics, config, costs)
    return row.offer.plan(schema, strategy=plan_name(row.strategy, row.offer))


def comparison_table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table for a terminal; figures of what misses the demand are dim."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("strategy", no_wrap=True)
    heads = ("shards", "fullest", "busiest\nms", "above\nbound", "calls", "P50\nms", "P99\nms", "CPU\nms",
             "pods", "memory\nGiB", "cost")  # fmt: skip
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        style = "" if row.meets else "dim"
        table.add_row(
            Text(_name(row), style=style), *(Text(figure, style=style) for figure in _figures(row, len(heads)))
        )
    return table


def about_bounds(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return a line on what `auto` is compared with, where others are with a bound of what they balance."""
    return tuple(
        f"{row.strategy}: above bound is its cost: no plan with shard servers costs less than "
        f"{three_digits(row.cost_bound.value)} ({row.cost_bound.reason}), whatever its latency"
        for row in rows
        if row.cost_bound
    )


def problems(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return a line for each strategy that has no plan, or none that meets the demand."""
    return tuple(row.problem for row in rows if row.problem)


def _row_of_auto(
    found: Mapping[Strategy, Placement],
    schema: Schema,
    statistics: Statistics,
    config: ShardingConfig,
    costs: CostModel,
) -> Row:
    try:
        best = cheapest(placements_for_auto(found, statistics, config, costs), schema, config, costs)
    except PlanError as error:
        return Row("auto", None, None, str(error))
    if isinstance(best, Miss):
        return Row("auto", None, None, best.problem)
    prediction = confirmed(best.placement, best.fleet, schema, config, costs)
    problem = _overload("auto", best, prediction, config)
    return Row("auto", best, prediction, problem, least_cost(statistics, config, costs))


def _row(strategy: Strategy, placement: Placement, schema: Schema, config: ShardingConfig, costs: CostModel) -> Row:
    offer = cheapest_fleet(placement, config, costs)
    met = meet(offer, schema, config, costs)
    shown = offer if isinstance(met, Miss) else met
    prediction = confirmed(placement, shown.fleet, schema, config, costs)
    problem = met.problem if isinstance(met, Miss) else _overload(strategy, shown, prediction, config)
    return Row(strategy, shown, prediction, problem)


def _overload(strategy: Strategy, offer: Offer, prediction: Prediction, config: ShardingConfig) -> str:
    """Return why an offer does not meet its load, though it does by mean CPU times alone; empty: it does."""
    if not prediction.is_overloaded:
        return ""
    busiest = max(prediction.shard_utilisation)
    return (
        f"{strategy}: overloaded with {offer.fleet.pods:,} pods at {prediction.requests_per_s:g} requests/s: rankers "
        f"are {prediction.ranker_utilisation:.1%} busy, servers of shards up to {busiest:.1%}; "
        f"lower max_utilisation ({config.demand.max_utilisation:g})"
    )


def _name(row: Row) -> str:
    return plan_name(row.strategy, row.offer) if row.offer else row.strategy


def _figures(row: Row, count: int) -> Sequence[str]:
    if not row.offer or not row.prediction:
        return [DASH] * count
    placement, fleet = row.offer.placement, row.offer.fleet
    return (
        str(placement.num_shards),
        bytes_text(int(placement.shard_bytes.max())),
        three_digits(row.most_cpu_ms),
        DASH if row.distance is None else f"{row.distance:.2%}",
        f"{row.prediction.calls:g}",
        DASH if row.is_overloaded else three_digits(row.prediction.p50_ms),
        "overload" if row.is_overloaded else three_digits(row.prediction.p99_ms),
        three_digits(row.prediction.cpu_ms),
        f"{fleet.pods:,}",
        three_digits(fleet.memory_bytes / 2**30),
        three_digits(fleet.cost),
    )
