"""The strategies that need no load: the placement of each part, and its distance from the best possible.

Source: Lui et al., arXiv:2011.02084, which compares a singular model with tables placed by capacity, by pooling work
and by net. Those strategies are greedy; these search (`exfm.planning.partitioner.packing`).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from exfm.errors import PlanError
from exfm.planning.config import ShardingConfig, Strategy
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.enumerator import Parts
from exfm.planning.placement import Placement, bottleneck_of
from exfm.planning.proposer.fit import bounds_by_division, check_fit, fewest_pieces, not_placed, users_tables
from exfm.planning.proposer.layouts import Task, lay_out
from exfm.planning.statistics import Statistics

NUM_DIVISIONS = 3
"""Divisions of the shards between the nets that are tried, from the lowest bound."""

PlaceFunction = Callable[[Statistics, ShardingConfig, CostModel], Placement]


def place_by_each_strategy(
    statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> tuple[dict[Strategy, Placement], dict[Strategy, PlanError]]:
    """Return the placement of every strategy but `auto`, and the errors of those that have none."""
    found: dict[Strategy, Placement] = {}
    refused: dict[Strategy, PlanError] = {}
    for strategy, place in STRATEGIES.items():
        try:
            found[strategy] = place(statistics, config, costs)
        except PlanError as error:
            refused[strategy] = error
    return found, refused


def place_on_ranker(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return all tables in the ranker's own process.

    Raises: PlanError if they do not fit.
    """
    return _place_on_one("singular", statistics, config, costs)


def place_on_one_shard(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return all tables on one shard.

    Raises: PlanError if they do not fit.
    """
    return _place_on_one("one-shard", statistics, config, costs)


def place_by_capacity(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return a placement whose fullest shard has as few bytes as the search found.

    Raises: PlanError if the tables do not fit, or are fewer than the shards.
    """
    return _place_evenly("capacity-balanced", statistics, config, costs, balances="bytes")


def place_by_load(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return a placement whose busiest shard has as little work as the search found.

    Raises: PlanError if the tables do not fit, or are fewer than the shards.
    """
    return _place_evenly("load-balanced", statistics, config, costs, balances="work")


def place_by_net(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return a placement whose shards have tables of one net each; the fullest has as few bytes as the search found.

    A table that both nets use belongs to the item net, which looks it up once per candidate.

    Raises: PlanError if the tables do not fit, or there are fewer tables than shards, or fewer shards than nets.
    """
    is_user = users_tables(statistics)
    if is_user.all() or not is_user.any():
        return _place_evenly("nsbp", statistics, config, costs, balances="bytes")
    check_fit("nsbp", statistics, config)
    bounds = bounds_by_division(statistics, config)
    by_bound = sorted(bounds, key=lambda num_user: (bounds[num_user].value, num_user))
    fewest = fewest_pieces(statistics, config)
    parts_of_users, parts_of_items = int(fewest[is_user].sum()), int(fewest[~is_user].sum())
    # A net with more shards than parts leaves shards empty unless its parts get smaller. So divisions without that are
    # tried as well.
    sure = [n for n in by_bound if config.num_shards - parts_of_items <= n <= parts_of_users]
    found: list[Placement] = []
    for num_user in dict.fromkeys([*by_bound[:NUM_DIVISIONS], *sure[:NUM_DIVISIONS]]):
        of_users = lay_out(Task(statistics, costs, config, is_user, num_user, "bytes"))
        of_items = lay_out(Task(statistics, costs, config, ~is_user, config.num_shards - num_user, "bytes"))
        if not of_users or not of_items:
            continue
        parts = Parts.join(of_users.parts, of_items.parts, costs)
        shard_of = np.concatenate([of_users.shard_of, of_items.shard_of + num_user])
        if len(np.unique(shard_of)) == config.num_shards:
            found.append(Placement("nsbp", parts, shard_of, config.num_shards, "bytes", bounds[by_bound[0]]))
            if fewest.max() == 1:
                break  # with whole tables the bound is tight, so the first division is the best
    if not found:
        raise not_placed("nsbp", statistics, config)
    return min(found, key=bottleneck_of)


STRATEGIES: dict[Strategy, PlaceFunction] = {
    "singular": place_on_ranker,
    "one-shard": place_on_one_shard,
    "capacity-balanced": place_by_capacity,
    "load-balanced": place_by_load,
    "nsbp": place_by_net,
}
"""Every strategy but `auto`."""


def _place_on_one(
    strategy: Literal["singular", "one-shard"], statistics: Statistics, config: ShardingConfig, costs: CostModel
) -> Placement:
    check_fit(strategy, statistics, config)
    ones = np.ones(len(statistics.tables), dtype=np.int64)
    parts = Parts.divide(statistics, costs, encoding=config.encoding, pieces=ones, hot_rows=0 * ones)
    return Placement(strategy, parts, np.zeros(len(parts), dtype=np.int64), 1)


def _place_evenly(
    strategy: Strategy,
    statistics: Statistics,
    config: ShardingConfig,
    costs: CostModel,
    *,
    balances: Literal["bytes", "work"],
) -> Placement:
    check_fit(strategy, statistics, config)
    everyone = np.ones(len(statistics.tables), dtype=np.bool_)
    layout = lay_out(Task(statistics, costs, config, everyone, config.num_shards, balances))
    if not layout:
        raise not_placed(strategy, statistics, config)
    return Placement(strategy, layout.parts, layout.shard_of, config.num_shards, balances, layout.bound)
