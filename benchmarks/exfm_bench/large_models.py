"""Models made up for tests and benchmarks, too large to be served here: like known ranking models, and hard to place.

Source: Lui et al., arXiv:2011.02084, names three models DRM1 to DRM3. Taken from it are the numbers of tables and nets,
and that one table is nearly all of DRM3; everything else is an assumption of this module.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from exfm.artifact.plan import Encoding, row_bytes
from exfm.planning.config import ShardingConfig, Strategy
from exfm.planning.statistics import HotRows, Statistics, TableStatistics
from exfm.schema import Schema

Floats = npt.NDArray[np.float64]
ENCODING: Encoding = "fp32"
"""Encoding of all tables: it decides their bytes, and how full shards are."""
Net = Literal["user", "item"]

ZIPF = 1.05
"""Exponent of the access skew: the k-th hottest row of a table has k**-ZIPF of the accesses of the first."""

CURVE_SHARES = (1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Shares of a table's rows at which its skew is stated."""


@dataclass(frozen=True)
class Workload:
    """A model, how requests use it, and a shard's memory that suits it."""

    name: str
    """Name of the model, with its seed."""
    schema: Schema
    statistics: Statistics
    num_shards: int
    shard_memory_gib: float

    @property
    def total_bytes(self) -> int:
        """Return what all tables take."""
        return self.statistics.size_bytes(ENCODING)

    def settings(self, strategy: Strategy) -> ShardingConfig:
        """Return the settings of a plan by this strategy on the workload's shards."""
        return ShardingConfig(
            strategy=strategy,
            num_shards=self.num_shards,
            shard_memory_gib=self.shard_memory_gib,
            encoding=ENCODING,
        )


def drm1_like(seed: int, *, num_shards: int = 8) -> Workload:
    """Return 257 tables in two nets, 200 GiB together, of log-normal sizes."""
    random = np.random.default_rng(seed)
    sizes_bytes = _log_normal(random, 257, sigma=1.5) * 200 * 2**30
    return _ranking_model(f"DRM1-like, seed {seed}", random, sizes_bytes, num_user=205, num_shards=num_shards)


def drm2_like(seed: int, *, num_shards: int = 8) -> Workload:
    """Return 133 tables in two nets, 140 GiB together, of log-normal sizes."""
    random = np.random.default_rng(seed)
    sizes_bytes = _log_normal(random, 133, sigma=1.5) * 140 * 2**30
    return _ranking_model(f"DRM2-like, seed {seed}", random, sizes_bytes, num_user=106, num_shards=num_shards)


def drm3_like(seed: int, *, num_shards: int = 8) -> Workload:
    """Return 39 tables of one net, 200 GiB together, 90 % of it in one table."""
    random = np.random.default_rng(seed)
    sizes_bytes = np.append(0.1 * _log_normal(random, 38, sigma=1.5), 0.9) * 200 * 2**30
    return _ranking_model(f"DRM3-like, seed {seed}", random, sizes_bytes, num_user=39, num_shards=num_shards)


def ten_terabytes(seed: int) -> Workload:
    """Return 1,000 tables in two nets, 10 TB together, of log-normal sizes, and 128 shards."""
    random = np.random.default_rng(seed)
    sizes_bytes = _log_normal(random, 1000, sigma=1.5) * 10e12
    return _ranking_model(f"10 TB, seed {seed}", random, sizes_bytes, num_user=800, num_shards=128)


def heavy_tailed(
    seed: int,
    *,
    num_tables: int = 1000,
    num_shards: int = 128,
    total_gib: float = 10 * 1024,
    fill: float = 0.92,
    sigma: float = 2.0,
    correlation: float = 0.5,
) -> Workload:
    """Return tables whose bytes and keys a request are both heavy-tailed, and shards that they fill to `fill`.

    Both are log-normal with `sigma` and `correlation` of the logarithms. None is above 0.9 of a shard's mean, and all
    rows are of one dim: a table that was a shard's whole load would be the bottleneck by itself.
    """
    random = np.random.default_rng(seed)
    normal = random.standard_normal((2, num_tables))
    normal[1] = correlation * normal[0] + np.sqrt(1 - correlation**2) * normal[1]
    size_share, key_share = (_below(np.exp(sigma * row), 0.9 / num_shards) for row in normal)
    candidates = 1000.0
    tables = [
        _table(
            f"t{index:04d}",
            "item",
            size_bytes=share * total_gib * 2**30,
            dim=64,
            bags=candidates,
            pooling=keys / candidates,
        )
        for index, (share, keys) in enumerate(zip(size_share, key_share * 2e7, strict=True))
    ]
    return Workload(
        name=f"heavy-tailed, sigma {sigma:g}, {fill:.0%} full, seed {seed}",
        schema=schema_of(tables),
        statistics=Statistics(tables=tuple(tables), num_requests=1, candidates_mean=candidates),
        num_shards=num_shards,
        shard_memory_gib=total_gib / num_shards / fill,
    )


def changed(workload: Workload) -> Workload:
    """Return a workload some time later: every 50th table has twice the keys, after every 100th is a new one."""
    tables: list[TableStatistics] = []
    for index, table in enumerate(workload.statistics.tables):
        factor = 2.0 if index % 50 == 0 else 1.0
        tables.append(table.model_copy(update={"pooling_mean": factor * table.pooling_mean}))
        if index % 100 == 99:
            tables.append(table.model_copy(update={"name": f"new_{table.name}"}))
    statistics = workload.statistics.model_copy(update={"tables": tuple(tables)})
    return replace(workload, name=f"{workload.name}, later", schema=schema_of(tables), statistics=statistics)


def schema_of(tables: Sequence[TableStatistics]) -> Schema:
    """Return a schema with one feature for each table."""
    features = [
        {
            "name": f"f_{table.name}"[:63],
            "net": "user" if table.net == "user" else "item",
            "kind": "bag",
            "table": table.name,
        }
        for table in tables
    ]
    return Schema.parse(
        {
            "impression_key": "id",
            "event_time": {"column": "time"},
            "domain": "domain",
            "sparse": features,
            "tables": [{"name": table.name, "rows": table.rows, "dim": table.dim} for table in tables],
            "labels": [{"name": "good", "feedback": "good", "attribution_window": 1}],
        },
        source="a made-up model",
    )


def zipf_mass(num_rows: int, of_rows: int) -> float:
    """Return the share of accesses that fall on the hottest `num_rows` of `of_rows` rows."""
    return _zipf_sum(num_rows) / _zipf_sum(of_rows)


def _ranking_model(
    name: str, random: np.random.Generator, sizes_bytes: Floats, *, num_user: int, num_shards: int
) -> Workload:
    """Return a model whose users have bags of many ids, and whose candidates one id a table."""
    candidates = 100.0
    pooling = random.lognormal(np.log(10.0), 1.0, size=len(sizes_bytes))
    tables = []
    for index, size_bytes in enumerate(sizes_bytes):
        is_user = index < num_user
        tables.append(
            _table(
                f"t{index:03d}",
                "user" if is_user else "item",
                size_bytes=float(size_bytes),
                dim=int(random.choice([32, 64, 128])),
                bags=1.0 if is_user else candidates,
                pooling=float(pooling[index]) if is_user else 1.0,
            )
        )
    return Workload(
        name=name,
        schema=schema_of(tables),
        statistics=Statistics(tables=tuple(tables), num_requests=1, candidates_mean=candidates),
        num_shards=num_shards,
        shard_memory_gib=float(sizes_bytes.sum()) / 2**30 / num_shards / 0.92,
    )


def _table(name: str, net: Net, *, size_bytes: float, dim: int, bags: float, pooling: float) -> TableStatistics:
    rows = min(max(int(size_bytes / row_bytes(dim, ENCODING)), 16), 2**32)
    numbers = sorted({int(rows * share) for share in CURVE_SHARES} - {0})
    return TableStatistics(
        name=name,
        net=net,
        rows=rows,
        dim=dim,
        request_share=1.0,
        bags_per_request=bags,
        pooling_mean=pooling,
        pooling_p99=pooling * 3,
        skew=tuple(HotRows(num_rows=number, mass=zipf_mass(number, rows)) for number in numbers),
    )


def _log_normal(random: np.random.Generator, count: int, *, sigma: float) -> Floats:
    weights = random.lognormal(0.0, sigma, size=count)
    shares: Floats = weights / weights.sum()
    return shares


def _below(weights: Floats, most: float) -> Floats:
    """Return the weights' shares of their sum, with those that would be above `most` cut down to it."""
    shares: Floats = weights / weights.sum()
    while shares.max() > most * (1 + 1e-9):
        shares = np.minimum(shares, most)
        shares /= shares.sum()
    return shares


def _zipf_sum(num_rows: int) -> float:
    """Return the sum of k**-ZIPF for k = 1 to `num_rows`, by the Euler-Maclaurin formula; within 0.1 %."""

    def power(exponent: float) -> float:
        return math.pow(num_rows, exponent)

    return (1 - power(1 - ZIPF)) / (ZIPF - 1) + (1 + power(-ZIPF)) / 2 + ZIPF / 12 * (1 - power(-ZIPF - 1))
