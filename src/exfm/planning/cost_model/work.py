"""The work that a plan gives its shards: calls, lookups, bags, keys and bytes of a mean request.

Legend: S shards.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from exfm.artifact.plan import ShardPlan, row_bytes
from exfm.errors import PlanError
from exfm.planning.arrays import Floats, Integers
from exfm.planning.statistics import Statistics, TableStatistics
from exfm.schema import NETS, Net

KEY_BYTES = 8
"""Bytes of a key in a call."""
LENGTH_BYTES = 4
"""Bytes of a bag's length in a call."""
NUMBER_BYTES = 4
"""Bytes of one number of a pooled embedding in an answer."""

_Z_P99 = 2.326
"""The standard normal's 99th percentile."""


@dataclass(frozen=True)
class ShardWork:
    """The work of each shard in a mean request; every array has shape [S]."""

    request_share: Floats
    """Share of requests that call the shard: 0 for a shard without lookups, else 1."""
    nets: Floats
    """Number of nets that have lookups on the shard, 0 to 2."""
    lookups: Floats
    """Number of pairs of a feature and a slice of its table."""
    bags: Floats
    """Bags of all lookups. Each slice of a table gets every bag, and answers with a pooled embedding for each one."""
    keys: Floats
    keys_variance: Floats
    """Variance of a request's keys, at the mean number of candidates."""
    read_bytes: Floats
    """Bytes of the rows, counted once for each read."""
    request_bytes: Floats
    """Bytes of keys and lengths."""
    answer_bytes: Floats
    """Bytes of pooled embeddings."""

    def on(self, shards: Integers) -> Self:
        """Return the work of these shards only."""
        return type(self)(**{name: getattr(self, name)[shards] for name in self.__dataclass_fields__})


def without_messages(work: ShardWork) -> ShardWork:
    """Return the same lookups as local ones: without calls, nets and messages."""
    none = np.zeros_like(work.bags)
    return replace(work, request_share=none, nets=none, request_bytes=none, answer_bytes=none)


def calls_only(nets_S: Floats) -> ShardWork:
    """Return the work of calls without lookups: one call to each shard that has a net."""
    none = {name: np.zeros_like(nets_S) for name in ShardWork.__dataclass_fields__}
    return ShardWork(**none | {"request_share": np.minimum(nets_S, 1), "nets": nets_S})


def work_by_net(plan: ShardPlan, statistics: Statistics) -> Mapping[Net, ShardWork]:
    """Return the work of each shard, by net; the item net's grows with the candidates, the user net's does not.

    A hot slice gets the keys of its table's hottest rows; row slices get shares of the other keys in proportion to
    their rows. That is an expectation, because keys are hashed: one very hot row still loads one slice.

    Raises: PlanError if the statistics lack a table of the plan.
    """
    tables = tables_of(plan, statistics)
    hot_mass = {slice_.table: mass_of(tables[slice_.table], slice_.num_rows)
                for slice_ in plan.slices if slice_.kind == "hot"}  # fmt: skip
    shards = np.array([slice_.shard for slice_ in plan.slices], dtype=np.int64)
    shares = np.array([
        hot_mass[slice_.table] if slice_.kind == "hot"
        else (1 - hot_mass.get(slice_.table, 0.0)) * slice_.num_rows / tables[slice_.table].rows
        for slice_ in plan.slices
    ])  # fmt: skip
    of_slices = [tables[slice_.table] for slice_ in plan.slices]
    return {
        net: _summed(of_slices, shares, shards, plan, net=net, candidates_mean=statistics.candidates_mean)
        for net in NETS
    }


def tables_of(plan: ShardPlan, statistics: Statistics) -> dict[str, TableStatistics]:
    """Return the tables of the statistics by name.

    Raises: PlanError if the statistics lack a table of the plan.
    """
    tables = {table.name: table for table in statistics.tables}
    unknown = sorted({slice_.table for slice_ in plan.slices} - tables.keys())
    if unknown:
        raise PlanError(
            f"the plan places table {unknown[0]!r}, which is not among the {len(tables)} tables of the statistics; "
            "name a plan for this model, or count it first"
        )
    return tables


def mass_of(table: TableStatistics, num_rows: int) -> float:
    """Return the share of a table's keys that its `num_rows` hottest rows get.

    Between counted points the share follows a power law. Below the first point it is linear from 0, an underestimate.
    If accesses were not counted, all rows get the same share.
    """
    points = [(point.num_rows, point.mass) for point in table.skew if point.mass > 0]
    if not points or points[-1][0] < table.rows:
        points.append((table.rows, 1.0))
    if num_rows <= points[0][0]:
        return points[0][1] * num_rows / points[0][0]
    rows, masses = np.log(np.array(points, dtype=np.float64)).T
    return float(np.exp(np.interp(np.log(num_rows), rows, masses)))


def pooling_variance(table: TableStatistics) -> float:
    """Return the variance of a table's keys per bag: of the log-normal with their mean and 99th percentile."""
    if table.pooling_p99 <= table.pooling_mean or not table.pooling_mean:
        return 0.0
    return float(table.pooling_mean**2 * np.expm1(log_normal_sigma(table.pooling_mean, p99=table.pooling_p99) ** 2))


def log_normal_sigma(mean: float, *, p99: float) -> float:
    """Return the sigma of the log-normal with a mean above 0, and a 99th percentile above the mean.

    If the percentile is too high for any log-normal of that mean, the result is the highest possible sigma, 2.3.
    """
    return float(_Z_P99 - np.sqrt(max(0.0, _Z_P99**2 - 2 * np.log(p99 / mean))))


def _use_of(table: TableStatistics, net: Net, candidates_mean: float) -> tuple[float, float]:
    """Return one net's part of a table's features, and of its bags in a mean request.

    If both nets use a table, user features have one bag per request and item features one bag per candidate. So the
    number of bags determines how many features belong to items.
    """
    if table.net == net:
        return table.num_features, table.bags_per_request
    if table.net != "both":
        return 0.0, 0.0
    beyond_one = (table.bags_per_request - table.num_features) / max(candidates_mean - 1, 1e-9)
    items = min(max(beyond_one, 0.0), table.num_features)
    users = table.num_features - items
    of_users = min(users, table.bags_per_request)
    return (users, of_users) if net == "user" else (items, table.bags_per_request - of_users)


def _summed(
    tables: list[TableStatistics], shares: Floats, shards: Integers, plan: ShardPlan, *, net: Net,
    candidates_mean: float,
) -> ShardWork:  # fmt: skip
    distinct = {table.name: table for table in tables}
    uses = {name: _use_of(table, net, candidates_mean) for name, table in distinct.items()}
    variances = {name: pooling_variance(table) for name, table in distinct.items()}
    features, bags = np.array([uses[table.name] for table in tables], dtype=np.float64).T
    all_keys = bags * np.array([table.pooling_mean for table in tables])
    keys = all_keys * shares
    variance = bags * np.array([variances[table.name] for table in tables]) * shares**2 + keys * (1 - shares)
    read_bytes = keys * np.array([row_bytes(table.dim, plan.encoding) for table in tables])
    embedding_bytes = NUMBER_BYTES * np.array([table.dim for table in tables])

    def by_shard(values: Floats) -> Floats:
        return np.bincount(shards, weights=values, minlength=plan.num_shards).astype(np.float64)

    is_called = (by_shard(features) > 0).astype(np.float64)
    return ShardWork(
        request_share=is_called,
        nets=is_called,
        lookups=by_shard(features),
        bags=by_shard(bags),
        keys=by_shard(keys),
        keys_variance=by_shard(variance),
        read_bytes=by_shard(read_bytes),
        request_bytes=by_shard(keys * KEY_BYTES + bags * LENGTH_BYTES),
        answer_bytes=by_shard(bags * embedding_bytes),
    )
