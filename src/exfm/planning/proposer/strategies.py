"""The strategies that need no load: the placement of each part, and its distance from the best possible.

Source: Lui et al., arXiv:2011.02084, which compares a singular model with tables placed by capacity, by pooling work
and by net. Those strategies are greedy; these search (`exfm.planning.partitioner.packing`).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from exfm.errors import PlanError
from exfm.planning.config import ShardingConfig, Strategy
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.enumerator import Parts, fewest_pieces
from exfm.planning.placement import Placement, bottleneck_of
from exfm.planning.proposer.fit import bounds_by_division, check_fit, not_placed, users_tables
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


def place_by_net(statistics: Statistics, config: ShardingConfig, costs: CostModel) -> Placement:
    """Return a placement whose shards have tables of one net each; the fullest has as few bytes as the search found.

    A table that both nets use belongs to the item net, which looks it up once per candidate.

    Raises: PlanError if the tables do not fit, or there are fewer tables than shards, or fewer shards than nets.
    """
    is_user = users_tables(statistics)
    if is_user.all() or not is_user.any():
        return _place_evenly(statistics, config, costs, strategy="nsbp")
    check_fit("nsbp", statistics, config)
    bounds = bounds_by_division(statistics, config)
    by_bound = sorted(bounds, key=lambda num_user: (bounds[num_user], num_user))
    fewest = fewest_pieces(statistics, config)
    parts_of_users, parts_of_items = int(fewest[is_user].sum()), int(fewest[~is_user].sum())
    # A net with more shards than parts leaves shards empty unless its parts get smaller. So divisions without that are
    # tried as well.
    sure = [n for n in by_bound if config.num_shards - parts_of_items <= n <= parts_of_users]
    found: list[Placement] = []
    for num_user in dict.fromkeys([*by_bound[:NUM_DIVISIONS], *sure[:NUM_DIVISIONS]]):
        of_users = lay_out(Task("nsbp", statistics, costs, config, is_user, num_user))
        num_item = config.num_shards - num_user
        of_items = lay_out(Task("nsbp", statistics, costs, config, ~is_user, num_item))
        if not of_users or not of_items:
            continue
        parts = Parts.join(of_users.parts, of_items.parts, costs)
        shard_of = np.concatenate([of_users.shard_of, of_items.shard_of + num_user])
        if len(np.unique(shard_of)) == config.num_shards:
            found.append(Placement("nsbp", parts, shard_of, config.num_shards, bounds[by_bound[0]]))
            if fewest.max() == 1:
                break  # with whole tables the bound is tight, so the first division is the best
    if not found:
        raise not_placed("nsbp", statistics, config)
    return min(found, key=bottleneck_of)


def _place_on_one(
    statistics: Statistics, config: ShardingConfig, costs: CostModel, *, strategy: Literal["singular", "one-shard"]
) -> Placement:
    """Return all tables on one shard, or in the ranker's own process.

    Raises: PlanError if they do not fit.
    """
    check_fit(strategy, statistics, config)
    ones = np.ones(len(statistics.tables), dtype=np.int64)
    parts = Parts.divide(statistics, costs, encoding=config.encoding, pieces=ones, hot_rows=0)
    return Placement(strategy, parts, np.zeros(len(parts), dtype=np.int64), 1)


def _place_evenly(statistics: Statistics, config: ShardingConfig, costs: CostModel, *, strategy: Strategy) -> Placement:
    """Return a placement whose fullest (or busiest) shard has as few bytes (or as little work) as the search found.

    Raises: PlanError if the tables do not fit, or are fewer than the shards.
    """
    check_fit(strategy, statistics, config)
    everyone = np.ones(len(statistics.tables), dtype=np.bool_)
    found = lay_out(Task(strategy, statistics, costs, config, everyone, config.num_shards))
    if not found:
        raise not_placed(strategy, statistics, config)
    return found


STRATEGIES: dict[Strategy, PlaceFunction] = {
    "singular": partial(_place_on_one, strategy="singular"),
    "one-shard": partial(_place_on_one, strategy="one-shard"),
    "capacity-balanced": partial(_place_evenly, strategy="capacity-balanced"),
    "load-balanced": partial(_place_evenly, strategy="load-balanced"),
    "nsbp": place_by_net,
}
"""Every strategy but `auto`."""
