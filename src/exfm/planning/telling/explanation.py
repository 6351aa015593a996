"""Why a table is where a plan has put it, in sentences with numbers."""

from collections.abc import Iterator

import numpy as np

from exfm.artifact.plan import ShardPlan, TableSlice
from exfm.errors import PlanError
from exfm.planning.config import ShardingConfig
from exfm.planning.placing.placement import Placement, base_strategy, placement_of
from exfm.planning.planner import place_by_all
from exfm.planning.pricing.bounds import least_cost
from exfm.planning.pricing.costs import CostModel, mass_of
from exfm.planning.pricing.fleet import needs_of, priced
from exfm.planning.pricing.offers import Offer, cheapest_fleet
from exfm.planning.sizes import bytes_text, three_digits
from exfm.planning.statistics import Statistics, TableStatistics

BALANCED = {"capacity-balanced": "bytes", "nsbp": "bytes", "load-balanced": "work"}

MAX_SLICES = 4
"""That are told of one by one."""


def explain(
    table: str, plan: ShardPlan, statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> tuple[str, ...]:
    """Return what a table is, where each of its slices lies, and why not elsewhere: a sentence a line.

    Raises: PlanError if the plan or the statistics do not have it.
    """
    slices = plan.by_table().get(table)
    found = next((one for one in statistics.tables if one.name == table), None)
    if not slices or not found:
        known = ", ".join(sorted(one.name for one in statistics.tables)[:8])
        raise PlanError(f"no table {table!r} in this plan of {len(plan.by_table())} tables; some are {known}")
    placement = placement_of(plan, statistics, costs)
    shown = slices if len(slices) <= MAX_SLICES else (*slices[: MAX_SLICES - 1], slices[-1])
    return (
        _what(found, statistics, placement),
        *(_where(slice_, plan, placement, costs) for slice_ in shown),
        *([f"So do {len(slices) - len(shown)} more slices, on other shards."] if len(shown) < len(slices) else []),
        *_why_so_many(slices, found, plan, config),
        _why_there(slices[0], plan, placement, config),
        *_why_auto(plan, placement, config, costs),
    )


def _what(table: TableStatistics, statistics: Statistics, placement: Placement) -> str:
    encoding = placement.parts.encoding
    size_bytes, sizes = table.size_bytes(encoding), [one.size_bytes(encoding) for one in statistics.tables]
    place = sorted(sizes, reverse=True).index(size_bytes) + 1
    of_table = np.array([one.name == table.name for one in statistics.tables])[placement.parts.table]
    work = placement.parts.cpu_s[of_table].sum() / placement.parts.cpu_s.sum()
    return (
        f"{table.name} ({table.net} net) has {table.rows:,} rows of dim {table.dim}: {bytes_text(size_bytes)} in "
        f"{encoding}, {size_bytes / sum(sizes):.1%} of all bytes, number {place} of {len(sizes)} in size; a request "
        f"reads {three_digits(table.keys_per_request)} rows of it, {work:.1%} of the shards' work."
    )


def _where(slice_: TableSlice, plan: ShardPlan, placement: Placement, costs: CostModel) -> str:
    needs = needs_of(placement, costs)
    rows = f"rows {slice_.first_row:,} to {slice_.first_row + slice_.num_rows - 1:,}"
    what = f"Its {slice_.num_rows:,} most wanted rows" if slice_.kind == "hot" else f"Its {rows}"
    if placement.is_singular:
        return f"{what} ({bytes_text(slice_.size_bytes)}) lie in every ranker, with all others."
    servers = plan.replicas[slice_.shard]
    return (
        f"{what} ({bytes_text(slice_.size_bytes)}) lie on shard {slice_.shard}, "
        f"{'on its one server' if servers == 1 else f'on each of its {servers} servers'}; the shard holds "
        f"{bytes_text(int(placement.shard_bytes[slice_.shard]))} and works "
        f"{three_digits(needs.shard_cpu_s[slice_.shard] * 1e3)} ms for a request (the busiest "
        f"{three_digits(needs.shard_cpu_s.max() * 1e3)} ms)."
    )


def _why_so_many(
    slices: tuple[TableSlice, ...], table: TableStatistics, plan: ShardPlan, config: ShardingConfig
) -> Iterator[str]:
    of_rows = [slice_ for slice_ in slices if slice_.kind == "rows"]
    hot = next((slice_ for slice_ in slices if slice_.kind == "hot"), None)
    if len(of_rows) > 1:
        share = table.size_bytes(plan.encoding) / config.capacity_bytes
        yield (
            f"It is split by ranges of keys into {len(of_rows)}: it takes {share:.2f} times the "
            f"{bytes_text(config.capacity_bytes)} of a shard. Each slice gets every bag, so more would cost more."
        )
    if hot:
        mass = mass_of(table, hot.num_rows)
        yield (
            f"{hot.num_rows / table.rows:.2%} of its rows take {mass:.0%} of its keys: copied, they are held by the "
            f"{plan.replicas[hot.shard]} servers that this work wants, and the whole table only by the "
            f"{max(plan.replicas[slice_.shard] for slice_ in of_rows)} that the rest wants."
        )


def _why_there(slice_: TableSlice, plan: ShardPlan, placement: Placement, config: ShardingConfig) -> str:
    strategy = base_strategy(plan)
    if placement.num_shards == 1:
        return f"The plan ({plan.strategy}) has one shard, so all tables are on it."
    if strategy in BALANCED:
        return _why_balanced(slice_, strategy, placement, config)
    if strategy != "auto":
        return f"The plan is by {strategy!r}, a strategy that this version does not have: it cannot tell why."
    density = placement.parts.cpu_s / placement.parts.size_bytes
    on_shard = density[placement.shard_of == slice_.shard] * 1e3 * 2**30
    return (
        f"The plan ({plan.strategy}) puts together what works alike for its bytes, so that few servers hold what is "
        f"asked little: the slices on shard {slice_.shard} work {on_shard.min():.3g} to {on_shard.max():.3g} ms a GiB "
        f"for a request, those of the model {density.min() * 1e3 * 2**30:.3g} to {density.max() * 1e3 * 2**30:.3g}."
    )


def _why_balanced(slice_: TableSlice, strategy: str, placement: Placement, config: ShardingConfig) -> str:
    parts, shard = placement.parts, slice_.shard
    names = [one.name for one in parts.statistics.tables]
    [part] = np.flatnonzero(
        (parts.table == names.index(slice_.table)) & (parts.first_row == slice_.first_row) & ~parts.is_hot
    )
    by_work = BALANCED[strategy] == "work"
    weight = parts.cpu_s if by_work else parts.size_bytes
    borne = placement.shard_cpu_s if by_work else placement.shard_bytes.astype(np.float64)
    others = np.flatnonzero(np.arange(placement.num_shards) != shard)
    sentence = f"The plan ({strategy}) evens out {'CPU time' if by_work else 'bytes'}."
    if strategy == "nsbp":
        users = np.bincount(placement.shard_of, parts.is_user, placement.num_shards) > 0
        others = others[users[others] == users[shard]]
        sentence += f" {len(others)} other shards hold tables of this net, and only they may have it."
    roomy = others[placement.shard_bytes[others] + parts.size_bytes[part] <= config.capacity_bytes]
    if len(roomy) < len(others):
        sentence += f" {len(others) - len(roomy)} of {len(others)} other shards have no room for it."
    if not len(roomy):
        return sentence
    best = int(roomy[np.argmin(borne[roomy])])
    after = borne.copy()
    after[[shard, best]] += np.array([-weight[part], weight[part]])
    was, would_be = (_text(value, by_work=by_work) for value in (borne.max(), after.max()))
    most = "the most of a shard, calls aside," if by_work else "the most of a shard"
    if after.max() > borne.max():
        return f"{sentence} On shard {best}, which has most to spare, {most} would rise: {was} to {would_be}."
    if after.max() == borne.max():
        return f"{sentence} On shard {best} it would be as well: {most}, {was}, would stay."
    return f"{sentence} On shard {best} {most} would fall: {was} to {would_be}; plan again."


def _text(value: float, *, by_work: bool) -> str:
    return f"{three_digits(value * 1e3)} ms" if by_work else bytes_text(int(value))


def _why_auto(plan: ShardPlan, placement: Placement, config: ShardingConfig, costs: CostModel) -> Iterator[str]:
    """Yield what `auto`'s plan costs, and by the load alone beside other strategies': nothing is simulated."""
    if not plan.strategy.startswith("auto"):
        return
    demand, statistics = config.demand, placement.parts.statistics
    planned = priced(needs_of(placement, costs), plan.replicas, plan.rankers, config)
    in_time = f" within p99_ms ({demand.p99_ms:g})" if demand.p99_ms else ""
    yield f"auto takes what costs least{in_time}: the plan's {planned.pods:,} pods cost {three_digits(planned.cost)}."
    if not demand.requests_per_s:
        servers = f"{demand.min_replicas} server{'s' * (demand.min_replicas > 1)}"
        yield (
            f"The settings have no load (demand.requests_per_s), so every shard has {servers}, and the fewest shards "
            "cost least, however much they work."
        )
    load = f"For {demand.requests_per_s:,g} requests/s alone, whatever the latency," if demand.requests_per_s else "So"
    own = cheapest_fleet(placement, config, costs).fleet
    found, _ = place_by_all(statistics, config, costs)
    others = [cheapest_fleet(other, config, costs) for name, other in found.items() if name != placement.strategy]
    other = min((one for one in others if not one.placement.is_singular), key=lambda one: one.fleet.cost, default=None)
    yield (
        f"{load} its placement wants {own.pods:,} at {three_digits(own.cost)}, {_other(other, config)}; no plan with "
        f"shard servers costs less than {three_digits(least_cost(statistics, config, costs).value)}."
    )
    if other and other.fleet.cost < own.cost:
        yield (
            "The other would be taken if so few servers answered in time, which `exfm shard plan` simulates; or the "
            "plan is of other settings, or comes from a plan before it."
            if demand.p99_ms
            else "The other costs less: the plan is of other settings, or comes from a plan before it; plan again."
        )


def _other(other: Offer | None, config: ShardingConfig) -> str:
    if not other:
        return f"and no other strategy has a plan on {config.num_shards} shards of {bytes_text(config.capacity_bytes)}"
    return (
        f"the cheapest of another strategy ({other.placement.strategy}, {other.placement.num_shards} "
        f"shard{'s' * (other.placement.num_shards > 1)}) {other.fleet.pods:,} at {three_digits(other.fleet.cost)}"
    )
