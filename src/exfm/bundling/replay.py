"""Logged requests as input of the simulator: when they arrived, and how many keys each has on each shard.

Legend: N requests, S shards.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from exfm.artifact.hot_rows import RowSet
from exfm.artifact.plan import ShardPlan
from exfm.artifact.rows import Rows
from exfm.bundling.request_keys import RequestKeys
from exfm.bundling.request_log import LoggedRequests
from exfm.bundling.shard_files import choose_hot_rows
from exfm.errors import DataError, PlanError
from exfm.models.lookup import KeyRouter
from exfm.planning.cost_model.costs import CostModel
from exfm.planning.counted import Counted
from exfm.planning.placement import SINGULAR, base_strategy
from exfm.planning.simulation.simulator import Load, Prediction, Requests, simulate_requests
from exfm.schema import NETS, Net, Schema

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_Route = tuple[KeyRouter, Integers]
"""The ranker's own router of a table's keys, and the shard of each of the table's slices."""

MIN_REQUESTS = 100
"""Minimum number of counted requests in a log."""
WARMUP_SHARE = 0.1
"""Share of a log's requests that fill queues and are not counted."""


def logged_requests(log: LoggedRequests, plan: ShardPlan, *, hottest: Mapping[str, Rows]) -> Requests:
    """Return a log's requests in order of arrival, with the number of their keys on each shard of a plan.

    `hottest` lists rows of tables with hot slices, hottest first. A request of several users counts as one of one user,
    except for its keys.

    Raises: StorageError if the log cannot be read; DataError if it is of another schema; PlanError if a hot slice has
    more rows than its table's list.
    """
    schema = log.schema
    hot_rows = {
        table: RowSet(rows, num_rows=schema.table(table).rows) for table, rows in choose_hot_rows(plan, hottest).items()
    }
    routes = {
        table: (
            KeyRouter(slices, num_rows=schema.table(table).rows, hot_rows=hot_rows),
            np.array([slice_.shard for slice_ in slices]),
        )
        for table, slices in plan.by_table().items()
    }
    arrivals_ns, candidates = [], []
    keys: dict[Net, list[Floats]] = {net: [] for net in NETS}
    for block in log.blocks():
        arrivals_ns.append(block.arrival_ns)
        candidates.append(block.num_rows["item"])
        for net in NETS:
            keys[net].append(_keys_of(block, schema, net, routes, num_shards=plan.num_shards))
    order = np.argsort(np.concatenate(arrivals_ns), kind="stable")
    sorted_ns = np.concatenate(arrivals_ns)[order]
    return Requests(
        arrivals_s=(sorted_ns - sorted_ns[0]) * 1e-9,
        candidates=np.concatenate(candidates)[order].astype(np.float64),
        keys={net: np.concatenate(of_net)[order] for net, of_net in keys.items()},
    )


def simulate_log(
    log: LoggedRequests,
    plan: ShardPlan,
    counted: Counted,
    costs: CostModel,
    *,
    requests_per_s: float,
    rankers: int,
    seed: int,
) -> Prediction:
    """Return the prediction for a plan's servers when a log's requests arrive at this mean rate, in the log's bursts.

    Raises: PlanError if the plan is singular; DataError if there are too few requests; ConfigError if Load does not
    allow the rate; what `logged_requests` raises.
    """
    if base_strategy(plan) == SINGULAR:
        raise PlanError("a singular plan makes no calls, so a log cannot be replayed; leave the log out")
    requests = logged_requests(log, plan, hottest=counted.hottest)
    num_warmup = int(WARMUP_SHARE * len(requests.arrivals_s))
    num_requests = len(requests.arrivals_s) - num_warmup
    if num_requests < MIN_REQUESTS:
        raise DataError(
            f"the log has {num_requests + num_warmup} requests, {num_requests} after the warm-up, expected at least "
            f"{MIN_REQUESTS}; log more"
        )
    load = Load.parse(
        {"requests_per_s": requests_per_s, "num_requests": num_requests, "num_warmup": num_warmup}, source="the load"
    )
    paced = requests.paced(requests_per_s)
    return simulate_requests(paced, plan, counted.statistics, costs, load, rankers=rankers, seed=seed)


def _keys_of(block: RequestKeys, schema: Schema, net: Net, routes: Mapping[str, _Route], *, num_shards: int) -> Floats:
    counts = np.zeros(len(block) * num_shards)
    request_of_row = np.repeat(np.arange(len(block)), block.num_rows[net])
    for feature in schema.sparse_of(net):
        router, shards_S = routes[feature.table]
        request_of_key = np.repeat(request_of_row, block.lengths[feature.name])
        shards = shards_S[router.owners(block.keys[feature.name])]
        counts += np.bincount(request_of_key * num_shards + shards, minlength=len(counts))
    return counts.reshape(len(block), num_shards)
