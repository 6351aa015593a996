"""A comparison of all strategies for one model under one demand."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from exfm.artifact.plan import ShardPlan
from exfm.errors import PlanError
from exfm.planning.config import ShardingConfig, Strategy
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.perf_model.candidates import CandidatePlan, Infeasible, candidate_of, meet
from exfm.planning.perf_model.forecast import confirmed
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

    @property
    def meets(self) -> bool:
        """Return whether there is a candidate that meets the demand."""
        return not self.problem

    @property
    def is_overloaded(self) -> bool:
        """Return whether the servers are overloaded, so that latency depends on the length of the simulation."""
        return self.prediction is not None and self.prediction.is_overloaded


def compare(schema: Schema, statistics: Statistics, config: ShardingConfig, costs: CostModel) -> tuple[Row, ...]:
    """Return a row for each strategy, `auto` last.

    Raises: PlanError if the statistics have other tables than the schema.
    """
    check_statistics(schema, statistics)
    found, refused = place_by_each_strategy(statistics, config, costs)
    rows = []
    for strategy in STRATEGIES:
        if strategy in refused:
            rows.append(Row(strategy, None, None, str(refused[strategy])))
            continue
        candidate = candidate_of(found[strategy], config, costs)
        rows.append(_row(strategy, candidate, meet(candidate, schema, config, costs), schema, config, costs))
    try:
        best = cheapest(placements_for_auto(found, statistics, config, costs), schema, config, costs)
    except PlanError as error:
        return (*rows, Row("auto", None, None, str(error)))
    return (*rows, _row("auto", None, best, schema, config, costs))


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
        name = plan_name(row.strategy, row.candidate) if row.candidate else row.strategy
        table.add_row(Text(name, style=style), *(Text(figure, style=style) for figure in _figures(row, len(heads))))
    return table


def _row(
    strategy: Strategy,
    candidate: CandidatePlan | None,
    met: CandidatePlan | Infeasible,
    schema: Schema,
    config: ShardingConfig,
    costs: CostModel,
) -> Row:
    """Return a strategy's row; if its plan is infeasible, the row shows its candidate, if any."""
    shown = candidate if isinstance(met, Infeasible) else met
    if shown is None:
        return Row(strategy, None, None, met.problem if isinstance(met, Infeasible) else "")
    prediction = confirmed(shown, schema, config, costs)
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


def _figures(row: Row, count: int) -> Sequence[str]:
    if not row.candidate or not row.prediction:
        return [DASH] * count
    placement, fleet = row.candidate.placement, row.candidate.fleet
    by_shard_s = placement.shard_cpu_s if placement.is_singular else row.candidate.needs.shard_cpu_s
    return (
        str(placement.num_shards),
        bytes_text(int(placement.shard_bytes.max())),
        three_digits(1e3 * float(by_shard_s.max())),
        DASH if placement.distance is None else f"{placement.distance:.2%}",
        f"{row.prediction.calls:g}",
        DASH if row.is_overloaded else three_digits(row.prediction.p50_ms),
        "overload" if row.is_overloaded else three_digits(row.prediction.p99_ms),
        three_digits(row.prediction.cpu_ms),
        f"{fleet.pods:,}",
        three_digits(fleet.memory_bytes / 2**30),
        three_digits(fleet.cost),
    )
