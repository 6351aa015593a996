"""A comparison of all strategies for one model under one demand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from exfm.artifact.plan import ShardPlan
from exfm.errors import PlanError
from exfm.planning.config import ShardingConfig, Strategy
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.partitioner.bounds import Bound
from exfm.planning.perf_model.candidates import CandidatePlan, Infeasible, candidate_of, meet
from exfm.planning.perf_model.cost_bound import least_cost
from exfm.planning.perf_model.forecast import confirmed
from exfm.planning.placement import Placement
from exfm.planning.planner import cheapest, make_plan, plan_name
from exfm.planning.proposer.proposals import placements_for_auto
from exfm.planning.proposer.strategies import STRATEGIES, place_by_each_strategy
from exfm.planning.simulation.simulator import Prediction
from exfm.planning.sizes import bytes_text, three_digits
from exfm.planning.statistics import Statistics, check_statistics
from exfm.schema import Schema

DASH = "–"  # noqa: RUF001


@dataclass(frozen=True)
class Row:
    """One strategy: its candidate plan with its prediction, or why it has none."""

    strategy: Strategy
    candidate: CandidatePlan | None
    prediction: Prediction | None
    problem: str
    """Why there is no candidate, or why it does not meet the demand; empty: it does."""
    cost_bound: Bound | None = None
    """For `auto`: lower bound of the cost of any plan with shard servers, whatever its latency."""

    @property
    def meets(self) -> bool:
        """Return whether there is a candidate that meets the demand."""
        return not self.problem

    @property
    def distance(self) -> float | None:
        """Return the share above the bound: of the cost for `auto`, of the bottleneck for others.

        None if there is no plan, or the strategy balances nothing.
        """
        if not self.candidate:
            return None
        return (
            self.cost_bound.distance(self.candidate.fleet.cost)
            if self.cost_bound
            else self.candidate.placement.distance
        )

    @property
    def is_overloaded(self) -> bool:
        """Return whether the servers are overloaded, so that latency depends on the length of the simulation."""
        return self.prediction is not None and self.prediction.is_overloaded

    @property
    def most_cpu_ms(self) -> float:
        """Return the CPU time of the busiest shard in a mean request, with its call if the strategy makes calls."""
        assert self.candidate is not None
        by_shard_s = self.candidate.needs.shard_cpu_s
        return 1e3 * float(by_shard_s.max() if len(by_shard_s) else self.candidate.placement.shard_cpu_s.max())


def compare(schema: Schema, statistics: Statistics, config: ShardingConfig, costs: CostModel) -> tuple[Row, ...]:
    """Return a row for each strategy, `auto` last.

    Raises: PlanError if the statistics have other tables than the schema.
    """
    check_statistics(schema, statistics)
    found, refused = place_by_each_strategy(statistics, config, costs)
    rows = [
        _row(strategy, found[strategy], schema, config, costs)
        if strategy in found
        else Row(strategy, None, None, str(refused[strategy]))
        for strategy in STRATEGIES
    ]
    return (*rows, _row_of_auto(found, schema, statistics, config, costs))


def compared_plan(
    rows: Sequence[Row], schema: Schema, statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> ShardPlan:
    """Return the plan of `make_plan`; it is taken from rows of the same arguments if it meets the demand there.

    Raises: PlanError, as `make_plan`.
    """
    [row] = [row for row in rows if row.strategy == config.strategy]
    if row.candidate is None or not row.meets:
        return make_plan(schema, statistics, config, costs)
    return row.candidate.plan(schema, strategy=plan_name(row.strategy, row.candidate))


def comparison_table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table for a terminal; rows that miss the demand are dim."""
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
    """Return a line about the bound of `auto`, which is one of cost; the others' bounds are of what they balance."""
    return tuple(
        f"{row.strategy}: above bound is for its cost: no plan with shard servers costs less than "
        f"{three_digits(row.cost_bound.value)} ({row.cost_bound.reason}), whatever its latency"
        for row in rows
        if row.cost_bound
    )


def problems(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return a line for each strategy without a plan that meets the demand."""
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
    if isinstance(best, Infeasible):
        return Row("auto", None, None, best.problem)
    prediction = confirmed(best.placement, best.fleet, schema, config, costs)
    problem = _overload("auto", best, prediction, config)
    return Row("auto", best, prediction, problem, least_cost(statistics, config, costs))


def _row(strategy: Strategy, placement: Placement, schema: Schema, config: ShardingConfig, costs: CostModel) -> Row:
    candidate = candidate_of(placement, config, costs)
    met = meet(candidate, schema, config, costs)
    shown = candidate if isinstance(met, Infeasible) else met
    prediction = confirmed(placement, shown.fleet, schema, config, costs)
    problem = met.problem if isinstance(met, Infeasible) else _overload(strategy, shown, prediction, config)
    return Row(strategy, shown, prediction, problem)


def _overload(strategy: Strategy, candidate: CandidatePlan, prediction: Prediction, config: ShardingConfig) -> str:
    """Return why a candidate is overloaded in the simulation, though not by mean CPU times; empty: it is not."""
    if not prediction.is_overloaded:
        return ""
    busiest = max(prediction.shard_utilisation)
    return (
        f"{strategy}: overloaded with {candidate.fleet.pods:,} pods at {prediction.requests_per_s:g} requests/s: "
        f"rankers are {prediction.ranker_utilisation:.1%} busy, shard servers up to {busiest:.1%}; "
        f"lower max_utilisation ({config.demand.max_utilisation:g})"
    )


def _name(row: Row) -> str:
    return plan_name(row.strategy, row.candidate) if row.candidate else row.strategy


def _figures(row: Row, count: int) -> Sequence[str]:
    if not row.candidate or not row.prediction:
        return [DASH] * count
    placement, fleet = row.candidate.placement, row.candidate.fleet
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
