"""A new plan that moves few bytes from an old one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from exfm.artifact.plan import ALIGNMENT_BYTES, ShardPlan, row_bytes
from exfm.planning.arrays import Integers
from exfm.planning.config import ShardingConfig
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.enumerator import Parts
from exfm.planning.partitioner.local_repair import repair_locally
from exfm.planning.partitioner.packing import NOWHERE, without_empty
from exfm.planning.perf_model.candidates import CandidatePlan, candidate_of, meet
from exfm.planning.placement import SINGULAR, Placement, base_strategy, bottleneck_of
from exfm.planning.planner import best_candidate, plan_name
from exfm.planning.replanning.moves import moved_bytes, renumbered
from exfm.planning.replanning.old_plan import check_old_plan, shapes_of
from exfm.planning.sizes import bytes_text
from exfm.planning.statistics import Statistics
from exfm.schema import Schema


@dataclass(frozen=True)
class Replanned:
    """A plan made from an old one, and the bytes that it moves."""

    plan: ShardPlan
    moved_bytes: int
    """Bytes that shards must load because they did not hold them."""
    fresh_bytes: int
    """Bytes that a plan from scratch would move, with the best numbering of its shards."""
    least_bytes: int
    """Lower bound for any plan within the shards' memory: new rows, and what no longer fits the old shards."""

    def headline(self) -> str:
        """Return one line."""
        return (
            f"moves {bytes_text(self.moved_bytes)} (a plan from scratch: {bytes_text(self.fresh_bytes)}; "
            f"at least: {bytes_text(self.least_bytes)})"
        )


def replan(
    old: ShardPlan, schema: Schema, statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> Replanned:
    """Return the plan that moves the fewest bytes, of those that are good enough by the settings.

    One is a plan from scratch, renumbered. The other is the old plan after local repair, if its bottleneck (for `auto`:
    its cost) is at most `replan_tolerance` higher. If the old plan needs no repair, nothing moves.

    Raises: PlanError, as `make_plan`, or if the old plan contradicts itself or has none of the schema's tables.
    """
    check_old_plan(old, schema)
    fresh = best_candidate(schema, statistics, config, costs)
    candidates = [_renumbered(fresh, old, schema)]
    repaired = _repaired(old, fresh, statistics, config, costs)
    if repaired is not None:
        met = meet(candidate_of(repaired, config, costs), schema, config, costs)
        candidates += [met] if isinstance(met, CandidatePlan) else []
    if config.strategy == "auto":
        candidates = [
            candidate
            for candidate in candidates
            if candidate.fleet.cost <= fresh.fleet.cost * (1 + config.replan_tolerance)
        ]
    plans = [candidate.plan(schema, strategy=plan_name(config.strategy, candidate)) for candidate in candidates]
    moved = [moved_bytes(plan, old) for plan in plans]
    best = int(np.argmin(moved))
    return Replanned(plans[best], moved[best], moved[0], _least_bytes(plans[best], old, config))


def _renumbered(candidate: CandidatePlan, old: ShardPlan, schema: Schema) -> CandidatePlan:
    numbers = renumbered(candidate.plan(schema, strategy="fresh"), old)
    placement = replace(candidate.placement, shard_of=numbers[candidate.placement.shard_of])
    replicas = np.empty(len(numbers), dtype=np.int64)
    replicas[numbers] = candidate.fleet.replicas
    return replace(candidate, placement=placement, fleet=replace(candidate.fleet, replicas=tuple(replicas.tolist())))


def _repaired(
    old: ShardPlan, fresh: CandidatePlan, statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> Placement | None:
    """Return the old placement, changed only where necessary; None if none was found.

    For `auto`, parts move only for lack of memory; the cost is compared afterwards. For strategies that balance, parts
    move until the bottleneck is within the tolerance; for `nsbp`, only between shards of their net.
    """
    is_auto = config.strategy == "auto"
    num_shards = old.num_shards if is_auto else fresh.placement.num_shards
    parts, home_P = _parts_at_home(old, fresh.placement, statistics, config, costs, num_shards, with_hot=is_auto)
    if len(parts) < num_shards:
        return None
    fills_P = parts.size_bytes / (config.capacity_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES)
    most = bottleneck_of(fresh.placement) * (1 + config.replan_tolerance)
    weights_P = parts.weights(fresh.placement.balances)
    loads_2P = np.stack([np.zeros(len(parts)) if is_auto or not most else weights_P / most, fills_P])
    shard_of = np.empty(len(parts), dtype=np.int64)
    for members, shards in _groups(parts, home_P, fresh.placement, num_shards, by_net=config.strategy == "nsbp"):
        places = np.full(num_shards + 1, NOWHERE)
        places[shards] = np.arange(len(shards))  # NOWHERE is -1, so the last entry maps it to itself
        found = repair_locally(places[home_P[members]], loads_2P[:, members], fills_P[members], len(shards))
        if found is None:
            return None
        shard_of[members] = shards[without_empty(found, len(shards))]
    if len(np.unique(shard_of)) < num_shards:
        return None
    strategy = base_strategy(old) if is_auto else config.strategy
    if is_auto and strategy == SINGULAR:
        strategy = "one-shard"  # `auto` makes no singular plans, because `exfm deploy` cannot roll them out
    return Placement(strategy, parts, shard_of, num_shards)


def _parts_at_home(
    old: ShardPlan,
    fresh: Placement,
    statistics: Statistics,
    config: ShardingConfig,
    costs: CostModel,
    num_shards: int,
    *,
    with_hot: bool,
) -> tuple[Parts, Integers]:
    """Return the old slices of unchanged tables and fresh parts of the others, and the home shard of each."""
    tables = statistics.tables
    old_shapes, old_slices = shapes_of(old), old.by_table()
    found: list[tuple[int, int, int, bool, int]] = []  # table, first row, rows, hot, shard
    for place, table in enumerate(tables):
        slices = [s for s in old_slices.get(table.name, ()) if with_hot or s.kind == "rows"]
        is_same = old_shapes.get(table.name) == (table.rows, row_bytes(table.dim, config.encoding), config.encoding)
        if is_same and max(slice_.size_bytes for slice_ in slices) <= config.capacity_bytes:
            for slice_ in slices:
                home = slice_.shard if slice_.shard < num_shards else NOWHERE
                found.append((place, slice_.first_row, slice_.num_rows, slice_.kind == "hot", home))
        else:
            for part in np.flatnonzero((fresh.parts.table == place) & ~fresh.parts.is_hot).tolist():
                found.append((place, int(fresh.parts.first_row[part]), int(fresh.parts.num_rows[part]), False, NOWHERE))
    table_P, first_row, num_rows, is_hot, home_P = (np.array(column) for column in zip(*found, strict=True))
    parts = Parts.measure(
        statistics,
        costs,
        encoding=config.encoding,
        table=table_P,
        first_row=first_row,
        num_rows=num_rows,
        is_hot=is_hot.astype(np.bool_),
    )
    return parts, home_P


def _groups(
    parts: Parts, home_P: Integers, fresh: Placement, num_shards: int, *, by_net: bool
) -> Iterator[tuple[Integers, Integers]]:
    """Yield groups of parts with the shards that they may be on: a group per net if `by_net`, else one group.

    The user net gets as many shards as in the fresh placement: those where user bytes exceed item bytes most.
    """
    everyone, shards = np.arange(len(parts)), np.arange(num_shards)
    if not by_net:
        yield everyone, shards
        return
    num_user = len(np.unique(fresh.shard_of[fresh.parts.is_user]))
    held = home_P != NOWHERE
    signed = np.where(parts.is_user, 1.0, -1.0) * parts.size_bytes
    users_first = np.argsort(-np.bincount(home_P[held], signed[held], num_shards), kind="stable")
    for members, own in ((parts.is_user, users_first[:num_user]), (~parts.is_user, users_first[num_user:])):
        if members.any():
            yield np.flatnonzero(members), np.sort(own)


def _least_bytes(new: ShardPlan, old: ShardPlan, config: ShardingConfig) -> int:
    old_shapes, new_shapes = shapes_of(old), shapes_of(new)
    kept = {table for table, shape in new_shapes.items() if old_shapes.get(table) == shape}
    new_bytes = sum(rows * of_row for table, (rows, of_row, _) in new_shapes.items() if table not in kept)
    held = np.zeros(old.num_shards, dtype=np.int64)
    for slice_ in old.slices:
        if slice_.table in kept and slice_.kind == "rows":
            held[slice_.shard] += slice_.size_bytes
    stays = np.where(np.arange(old.num_shards) < new.num_shards, config.capacity_bytes, 0)
    return new_bytes + int(np.maximum(held - stays, 0).sum())
