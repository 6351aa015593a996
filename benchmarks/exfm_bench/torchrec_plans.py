"""TorchRec's planner on a made-up model, where torchrec is installed: what it makes of the same tables.

It plans for servers whose memory is a GPU's, which is what it is made for, with each table whole unless a server cannot
hold it. Its greedy partitioner is run by its default order, storage, and by its estimate of time; the better is taken.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exfm.planning.cost_model.costs import CostModel
from exfm.planning.enumerator import Parts
from exfm.planning.partitioner.bounds import bottleneck_bound, distance
from exfm.planning.partitioner.packing import pack
from exfm_bench.large_models import ENCODING, Workload

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TorchRecPlan:
    """TorchRec's plan, measured by its own estimates and by exfm's cost model."""

    seconds: float
    own_distance: float
    """Distance of its bottleneck above the bound, by TorchRec's estimate of each part's time."""
    exfm_own_distance: float | None
    """Distance of the bottleneck of exfm's packing, for the same parts and estimates; None: no packing was found."""
    shard_cpu_s: Floats
    """CPU seconds of each shard for a request, by exfm's cost model."""


def plan_by_torchrec(workload: Workload, costs: CostModel) -> TorchRecPlan | str:
    """Return TorchRec's plan, or a few words on why there is none."""
    try:
        from torchrec.distributed.planner.partitioners import SortBy
        from torchrec.distributed.planner.types import PlannerError
    except ImportError:
        return "torchrec is not installed"
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    found = []
    for order in (SortBy.STORAGE, SortBy.PERF):
        try:
            found.append(_plan(workload, costs, order))
        except PlannerError:
            continue
    return min(found, key=lambda plan: plan.own_distance) if found else "finds no plan"


def _plan(workload: Workload, costs: CostModel, order: Any) -> TorchRecPlan:
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner
    from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
    from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner
    from torchrec.distributed.planner.shard_estimators import EmbeddingPerfEstimator, EmbeddingStorageEstimator
    from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
    from torchrec.distributed.planner.types import ParameterConstraints, Topology

    statistics = workload.statistics
    capacity_bytes = int(workload.shard_memory_gib * 2**30)
    topology = Topology(
        world_size=workload.num_shards, local_world_size=1, compute_device="cuda", hbm_cap=capacity_bytes, ddr_cap=0
    )
    batch = int(statistics.candidates_mean)
    constraints = {
        table.name: ParameterConstraints(
            sharding_types=["row_wise" if table.size_bytes(ENCODING) > capacity_bytes else "table_wise"],
            compute_kernels=["fused"],
            pooling_factors=[table.keys_per_request / batch],
        )
        for table in statistics.tables
    }
    enumerator = EmbeddingEnumerator(
        topology=topology,
        batch_size=batch,
        constraints=constraints,
        estimator=[
            EmbeddingPerfEstimator(topology=topology, constraints=constraints, is_inference=True),
            EmbeddingStorageEstimator(
                topology=topology, constraints=constraints, run_embedding_at_peak_memory=False, is_inference=True
            ),
        ],
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch,
        enumerator=enumerator,
        constraints=constraints,
        partitioner=GreedyPerfPartitioner(sort_by=order),
        storage_reservation=FixedPercentageStorageReservation(0.0),
        debug=False,
    )
    model, sharders = _model(workload), [EmbeddingBagCollectionSharder()]
    start = time.perf_counter()
    plan = planner.plan(model, sharders)
    seconds = time.perf_counter() - start
    estimates = {option.name: option.shards for option in enumerator.enumerate(model, sharders)}
    return _measured(plan.plan[""], estimates, workload, costs, seconds)


def _model(workload: Workload) -> Any:
    """Return the tables as TorchRec knows them, without memory."""
    import torch
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

    return EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(
                name=table.name, embedding_dim=table.dim, num_embeddings=table.rows, feature_names=[f"f_{table.name}"]
            )
            for table in workload.statistics.tables
        ],
    )


def _measured(
    plan: Mapping[str, Any], estimates: Mapping[str, Any], workload: Workload, costs: CostModel, seconds: float
) -> TorchRecPlan:
    found = [  # table, first row, rows, shard, estimated time, bytes
        (
            place,
            shard.shard_offsets[0],
            shard.shard_sizes[0],
            shard.placement.rank(),
            estimate.perf.total,
            estimate.storage.hbm,
        )
        for place, table in enumerate(workload.statistics.tables)
        for shard, estimate in zip(plan[table.name].sharding_spec.shards, estimates[table.name], strict=True)
    ]
    table, first_row, num_rows, shard_of, estimated, size_bytes = (
        np.array(column) for column in zip(*found, strict=True)
    )
    is_hot = np.zeros(len(table), dtype=np.bool_)
    parts = Parts.measure(
        workload.statistics,
        costs,
        encoding=ENCODING,
        table=table,
        first_row=first_row,
        num_rows=num_rows,
        is_hot=is_hot,
    )
    bound = bottleneck_bound(estimated, workload.num_shards)
    ours = pack(
        estimated, size_bytes, num_shards=workload.num_shards, capacity_bytes=int(workload.shard_memory_gib * 2**30)
    )
    return TorchRecPlan(
        seconds=seconds,
        own_distance=distance(float(np.bincount(shard_of, estimated, workload.num_shards).max()), bound),
        exfm_own_distance=None if ours is None else distance(ours.bottleneck, bound),
        shard_cpu_s=np.bincount(shard_of, parts.cpu_s, workload.num_shards).astype(np.float64),
    )
