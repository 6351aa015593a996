"""Why a plan places a table where it does, in sentences with numbers."""

from collections.abc import Iterator

import numpy as np

from exfm.artifact.plan import ShardPlan, TableSlice
from exfm.errors import PlanError
from exfm.planning.config import ShardingConfig
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.cost_model.work import mass_of
from exfm.planning.placement import BALANCED, Placement, base_strategy, placement_of
from exfm.planning.sizes import bytes_text, three_digits
from exfm.planning.statistics import Statistics, TableStatistics
from exfm.planning.topology import needs_of, priced

MAX_SLICES = 4
"""Maximum number of slices that are described one by one."""


def explain(
    table: str, plan: ShardPlan, statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> tuple[str, ...]:
    """Return a table's description, where each of its slices is and why, as sentences.

    Raises: PlanError if the plan or the statistics do not have the table.
    """
    slices = plan.by_table().get(table)
    found = next((one for one in statistics.tables if one.name == table), None)
    if not slices or not found:
        known = ", ".join(sorted(one.name for one in statistics.tables)[:8])
        raise PlanError(
            f"the plan of {len(plan.by_table())} tables has no table {table!r}; name one of its tables, such as {known}"
        )
    placement = placement_of(plan, statistics, costs)
    shown = slices if len(slices) <= MAX_SLICES else (*slices[: MAX_SLICES - 1], slices[-1])
    return (
        _what(found, statistics, placement),
        *(_where(slice_, plan, placement, costs) for slice_ in shown),
        *([f"{len(slices) - len(shown)} more slices are on other shards."] if len(shown) < len(slices) else []),
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
        f"{encoding}, {size_bytes / sum(sizes):.1%} of all bytes, number {place} of {len(sizes)} in size. A request "
        f"reads {three_digits(table.keys_per_request)} rows of it, which is {work:.1%} of the shards' work."
    )


def _where(slice_: TableSlice, plan: ShardPlan, placement: Placement, costs: CostModel) -> str:
    needs = needs_of(placement, costs)
    rows = f"rows {slice_.first_row:,} to {slice_.first_row + slice_.num_rows - 1:,}"
    what = f"Its {slice_.num_rows:,} hottest rows" if slice_.kind == "hot" else f"Its {rows}"
    if placement.is_singular:
        return f"{what} ({bytes_text(slice_.size_bytes)}) are in every ranker, as all tables are."
    servers = plan.replicas[slice_.shard]
    return (
        f"{what} ({bytes_text(slice_.size_bytes)}) are on shard {slice_.shard}, "
        f"{'on its one server' if servers == 1 else f'on each of its {servers} servers'}. The shard has "
        f"{bytes_text(int(placement.shard_bytes[slice_.shard]))}, and a request takes "
        f"{three_digits(needs.shard_cpu_s[slice_.shard] * 1e3)} ms of its CPU time (the busiest shard: "
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
            f"It is split by ranges of keys into {len(of_rows)} slices, because it is {share:.2f} times as large as a "
            f"shard ({bytes_text(config.capacity_bytes)}). Every slice gets every bag, so more slices would cost more."
        )
    if hot:
        mass = mass_of(table, hot.num_rows)
        yield (
            f"{hot.num_rows / table.rows:.2%} of its rows get {mass:.0%} of its keys. A copy of these rows is on "
            f"{plan.replicas[hot.shard]} servers, so the whole table needs only "
            f"{max(plan.replicas[slice_.shard] for slice_ in of_rows)}."
        )


def _why_there(slice_: TableSlice, plan: ShardPlan, placement: Placement, config: ShardingConfig) -> str:
    strategy = base_strategy(plan)
    if placement.num_shards == 1:
        return f"The plan ({plan.strategy}) has one shard, so all tables are on it."
    if strategy in BALANCED:
        return _why_balanced(slice_, strategy, placement, config)
    if strategy != "auto":
        return f"The plan has strategy {strategy!r}, which this version does not know, so it cannot explain the shard."
    density = placement.parts.cpu_s / placement.parts.size_bytes
    on_shard = density[placement.shard_of == slice_.shard] * 1e3 * 2**30
    return (
        f"The plan ({plan.strategy}) groups slices with similar work per byte, so that few servers hold the slices "
        f"with little work. The slices on shard {slice_.shard} take {on_shard.min():.3g} to {on_shard.max():.3g} ms "
        f"per GiB in a request, all slices {density.min() * 1e3 * 2**30:.3g} to {density.max() * 1e3 * 2**30:.3g}."
    )


def _why_balanced(slice_: TableSlice, strategy: str, placement: Placement, config: ShardingConfig) -> str:
    parts, shard = placement.parts, slice_.shard
    names = [one.name for one in parts.statistics.tables]
    [part] = np.flatnonzero(
        (parts.table == names.index(slice_.table)) & (parts.first_row == slice_.first_row) & ~parts.is_hot
    )
    by_work, weight_P = placement.balances == "work", parts.weights(placement.balances)
    weight_S = np.bincount(placement.shard_of, weight_P, placement.num_shards).astype(np.float64)
    others = np.flatnonzero(np.arange(placement.num_shards) != shard)
    sentence = f"The plan ({strategy}) balances {'CPU time' if by_work else 'bytes'}."
    if strategy == "nsbp":
        users = np.bincount(placement.shard_of, parts.is_user, placement.num_shards) > 0
        others = others[users[others] == users[shard]]
        sentence += f" Only shards of this net may have it: {len(others)} others."
    roomy = others[placement.shard_bytes[others] + parts.size_bytes[part] <= config.capacity_bytes]
    if len(roomy) < len(others):
        sentence += f" {len(others) - len(roomy)} of {len(others)} other shards have no room for it."
    if not len(roomy):
        return sentence
    best = int(roomy[np.argmin(weight_S[roomy])])
    after = weight_S.copy()
    after[[shard, best]] += np.array([-weight_P[part], weight_P[part]])
    was, would_be = (_text(value, by_work=by_work) for value in (weight_S.max(), after.max()))
    most = "the busiest shard's CPU time, without calls," if by_work else "the fullest shard's size"
    moved = f"{sentence} If it were on shard {best}, which has the lowest {'CPU time' if by_work else 'size'}, {most}"
    if after.max() > weight_S.max():
        return f"{moved} would rise from {was} to {would_be}."
    if after.max() == weight_S.max():
        return f"{moved} would stay at {was}."
    return f"{moved} would fall from {was} to {would_be}; plan again."


def _text(value: float, *, by_work: bool) -> str:
    return f"{three_digits(value * 1e3)} ms" if by_work else bytes_text(int(value))


def _why_auto(plan: ShardPlan, placement: Placement, config: ShardingConfig, costs: CostModel) -> Iterator[str]:
    """Yield the cost of `auto`'s plan."""
    if not plan.strategy.startswith("auto"):
        return
    demand = config.demand
    planned = priced(needs_of(placement, costs), plan.replicas, plan.rankers, config)
    in_time = f" within p99_ms ({demand.p99_ms:g})" if demand.p99_ms else ""
    yield (
        f"auto takes the cheapest plan{in_time}: the {planned.pods:,} pods of this one cost "
        f"{three_digits(planned.cost)}. `exfm shard plan` compares it with other strategies."
    )
    if not demand.requests_per_s:
        servers = f"{demand.min_replicas} server{'s' * (demand.min_replicas > 1)}"
        yield (
            f"The settings have no load (demand.requests_per_s), so every shard has {servers}, and the fewest shards "
            "are the cheapest."
        )
