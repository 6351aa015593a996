"""A new plan that moves few bytes from an old one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from exfm.artifact.plan import ALIGNMENT_BYTES, ShardPlan, row_bytes
from exfm.errors import PlanError
from exfm.planning.config import ShardingConfig
from exfm.planning.moving.moves import check_alone, moved_bytes, renumbered, shapes_of
from exfm.planning.placing.mending import NOWHERE, mend
from exfm.planning.placing.packing import without_empty
from exfm.planning.placing.parts import Integers, Parts
from exfm.planning.placing.placement import Placement, base_strategy, bottleneck_of
from exfm.planning.planner import make_offer, plan_name
from exfm.planning.pricing.costs import CostModel
from exfm.planning.pricing.offers import Offer, cheapest_fleet, meet
from exfm.planning.sizes import bytes_text
from exfm.planning.statistics import Statistics
from exfm.schema import Schema


@dataclass(frozen=True)
class Replanned:
    """A plan made from an old one, and what it moves."""

    plan: ShardPlan
    moved_bytes: int
    """That shards must load which they did not hold."""
    fresh_bytes: int
    """That a plan from nothing would have moved, its shards numbered as well as can be."""
    least_bytes: int
    """That any plan within the shards' memory must move: rows that are new, and what is too much on old shards."""

    def headline(self) -> str:
        """Return one line."""
        return (
            f"moves {bytes_text(self.moved_bytes)} (a plan from nothing: {bytes_text(self.fresh_bytes)}; "
            f"at least: {bytes_text(self.least_bytes)})"
        )


def replan(
    old: ShardPlan, schema: Schema, statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> Replanned:
    """Return the plan that moves fewest bytes among those found that are as good as the settings ask.

    A plan from nothing, renumbered, is always one. The old plan mended is another, if its bottleneck (of `auto`: its
    cost) is at most `replan_tolerance` above; where that needs no mending, nothing moves.

    Raises: PlanError, as `make_plan`, or if the old plan contradicts itself or has none of the schema's tables.
    """
    check_alone(old)
    if not set(shapes_of(old)) & {table.name for table in schema.tables}:
        raise PlanError(
            f"the old plan places {len(shapes_of(old))} tables and none of the schema's {len(schema.tables)}: it is of "
            "another model; plan without it"
        )
    fresh = make_offer(schema, statistics, config, costs)
    offers = [_renumbered(fresh, old, schema)]
    mended = _mended(old, fresh, statistics, config, costs)
    if mended is not None:
        met = meet(cheapest_fleet(mended, config, costs), schema, config, costs)
        offers += [met] if isinstance(met, Offer) else []
    if config.strategy == "auto":
        offers = [offer for offer in offers if offer.fleet.cost <= fresh.fleet.cost * (1 + config.replan_tolerance)]
    plans = [offer.plan(schema, strategy=plan_name(config.strategy, offer)) for offer in offers]
    moved = [moved_bytes(plan, old) for plan in plans]
    best = int(np.argmin(moved))
    return Replanned(plans[best], moved[best], moved[0], _least_bytes(plans[best], old, config))


def _renumbered(offer: Offer, old: ShardPlan, schema: Schema) -> Offer:
    numbers = renumbered(offer.plan(schema, strategy="fresh"), old)
    placement = replace(offer.placement, shard_of=numbers[offer.placement.shard_of])
    replicas = np.empty(len(numbers), dtype=np.int64)
    replicas[numbers] = offer.fleet.replicas
    return replace(offer, placement=placement, fleet=replace(offer.fleet, replicas=tuple(replicas.tolist())))


def _mended(
    old: ShardPlan, fresh: Offer, statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> Placement | None:
    """Return the old placement, changed only where it must be; None if that was not found.

    What `auto` has placed it leaves where it is as long as there is room; its cost is compared afterwards. A strategy
    that balances something moves until the bottleneck is within the tolerance, and `nsbp` within each net's shards.
    """
    is_auto = config.strategy == "auto"
    num_shards = old.num_shards if is_auto else fresh.placement.num_shards
    parts, home_P = _parts_at_home(old, fresh.placement, statistics, config, costs, num_shards, with_hot=is_auto)
    if len(parts) < num_shards:
        return None
    fills_P = parts.size_bytes / (config.capacity_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES)
    most = bottleneck_of(fresh.placement) * (1 + config.replan_tolerance)
    weights_P = parts.weights(fresh.placement.balances)
    heights_2P = np.stack([np.zeros(len(parts)) if is_auto or not most else weights_P / most, fills_P])
    shard_of = np.empty(len(parts), dtype=np.int64)
    for members, shards in _groups(parts, home_P, fresh.placement, num_shards, by_net=config.strategy == "nsbp"):
        places = np.full(num_shards + 1, NOWHERE)
        places[shards] = np.arange(len(shards))  # the last place is that of NOWHERE
        found = mend(places[home_P[members]], heights_2P[:, members], fills_P[members], len(shards))
        if found is None:
            return None
        shard_of[members] = shards[without_empty(found, len(shards))]
    if len(np.unique(shard_of)) < num_shards:
        return None
    strategy = base_strategy(old) if is_auto else config.strategy
    return Placement(strategy, parts, shard_of, num_shards, fresh.placement.balances)


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
    """Return the old slices of tables that are as they were, fresh parts of other tables, and their shards."""
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
    """Yield parts and the shards that they may be on: each net's if they go by net, else all.

    The shards with most users' bytes, less items', are users'; there are as many of them as in the fresh placement.
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
