"""Servers of generated models: the bundles that they hold, and their processes on cores of their own."""

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from exfm.errors import ConfigError
from exfm.models.config import Precision, ShardsConfig
from exfm.planning.config import ShardingConfig
from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm.planning.planner import make_plan
from exfm.planning.statistics import Statistics
from exfm.serving.config import RankerConfig, RankerDeadlinesConfig, ShardConfig
from exfm.serving.local.serving import LocalServing, serve_local
from exfm_bench.serving.config import Variant
from exfm_bench.workload import GeneratedModel

NUM_CORES = 2
"""Cores that all servers share."""

DEADLINE_MS = 20_000
"""Deadline of a request, so long that a late response is measured and does not fail."""

ROOM, ROOM_BY_NET = 1.5, 2.0
"""Memory of all shards over the bytes of all tables. With 1.5 two shards of a DRM3-like model split its largest table;
`nsbp` needs more, because one of two shards may hold nearly everything."""

ONE_SHARD = Variant(strategy="one-shard", num_shards=1)
"""The placement of an unsharded server, too."""

TWO_SHARDS = Variant()
"""The sharded variant of the sweep and of the memory measurement."""


class Bundles:
    """Bundles in a folder, each written at its first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, name: str, model: GeneratedModel, variant: Variant, *, candidates: int) -> Path:
        """Return the bundle of a model of that name, its tables placed for requests of so many candidates.

        All bundles of a name hold the same weights.

        Raises: PlanError if the strategy finds no place for them.
        """
        bundle = self._folder / f"{name}-{candidates}-{variant.strategy}-{variant.num_shards}"
        if not bundle.exists():
            statistics = model.statistics(candidates=candidates)
            plan = make_plan(model.schema(), statistics, sharding(variant, statistics), DEFAULT_COSTS)
            model.write_bundle(bundle, plan)
        return bundle


def sharding(variant: Variant, statistics: Statistics) -> ShardingConfig:
    """Return the settings of a plan for this variant."""
    config = ShardingConfig(strategy=variant.strategy, num_shards=variant.num_shards)
    room = ROOM_BY_NET if variant.strategy == "nsbp" else ROOM
    memory_gib = statistics.size_bytes(config.encoding) / 2**30 * room / variant.num_shards
    return config.model_copy(update={"shard_memory_gib": memory_gib})


def cores_of_servers() -> list[int]:
    """Return the cores that all servers are to run on, the first of this process's.

    Raises: ConfigError if there are too few.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < NUM_CORES:
        raise ConfigError(f"servers are measured on {NUM_CORES} cores, but this process may use {len(cores)}")
    return cores[:NUM_CORES]


@contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """Run on these cores; processes that are started meanwhile stay there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def serving(
    bundle: Path, *, threads: int, precision: Precision, variant: Variant | None = None
) -> Iterator[LocalServing]:
    """Yield a bundle's servers, on the measured cores; without a variant, the ranker holds all tables itself.

    `threads` are torch's, of the ranker, `precision` that of its dense layers; a shard has the one thread that is its
    default.

    Raises: ServingError if they do not start.
    """
    chosen = variant or ONE_SHARD
    ranker = RankerConfig(
        torch_threads=threads,
        dense_precision=precision,
        shards=ShardsConfig(local_tables_mib=chosen.local_tables_mib),
        deadlines=RankerDeadlinesConfig(default_ms=DEADLINE_MS),
    )
    shard = ShardConfig(pooled_precision=chosen.pooled_precision)
    with ExitStack() as stack:
        with on_cores(cores_of_servers()):
            started = stack.enter_context(
                serve_local(bundle, ranker=ranker, shard=shard, is_sharded=variant is not None)
            )
        yield started
