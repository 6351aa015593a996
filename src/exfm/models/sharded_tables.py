"""Trainable embedding tables, each whole on one of several processes, by TorchRec.

Legend: B examples of one rank, E dims of all looked-up features side by side: the user's, then the item's.
"""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import Tensor, distributed, nn

from exfm.errors import ConfigError
from exfm.features.batch import NetBatches
from exfm.models.config import TablesConfig
from exfm.models.ranks import Ranks
from exfm.models.tables import ADAGRAD_EPSILON, Lookups, draw_rows, features_of, lookups_of
from exfm.schema import Schema, Table

try:
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
    from torchrec.distributed.comm_ops import set_gradient_division
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
    from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
    from torchrec.distributed.types import ShardingEnv
except ImportError as error:
    raise ConfigError(
        "several processes, or a GPU, train by TorchRec, which is not installed; run make install-distributed, or use "
        "the image exfm-pipelines"
    ) from error

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

_WEIGHT, _MOMENTUM = "embedding_bags.{}.weight", "{}.momentum1"


class ShardedTables(nn.Module):
    """All tables of a schema, each in one process; returns pooled embeddings of this process's examples.

    They learn as EmbeddingTables do. TorchRec's planner places them, by estimated cost. It does not cut them by
    columns: row-wise Adagrad has one number for a row, so a model would depend on how many processes train it.
    """

    def __init__(self, schema: Schema, config: TablesConfig, *, seed: int, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks
        self._features = features_of(schema)
        self._tables = [schema.table(feature.table) for _, feature in self._features]
        self._first_rows = dict.fromkeys((table.name for table in schema.tables), 0)
        self._columns = [str(place) for place in range(len(self._features))]
        set_gradient_division(False)  # a rank's loss is its part of the minibatch's
        self._lookup = self._sharded(schema.tables, config)
        draw_rows(schema.tables, self.weights(), config, seed=seed)

    def _sharded(self, tables: tuple[Table, ...], config: TablesConfig) -> DistributedModelParallel:
        """Return TorchRec's tables."""
        bags = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=table.name,
                    embedding_dim=table.dim,
                    num_embeddings=table.rows,
                    feature_names=[c for c, of in zip(self._columns, self._tables, strict=True) if of == table],
                )
                for table in tables
            ],
            is_weighted=any(table.pooling == "mean" for table in self._tables),
            device=torch.device("meta"),
        )
        sharder = EmbeddingBagCollectionSharder(
            fused_params={
                "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
                "learning_rate": config.learning_rate,
                "eps": ADAGRAD_EPSILON,
                "bounds_check_mode": BoundsCheckMode.NONE,
            }
        )
        constraint = ParameterConstraints(sharding_types=["table_wise"], compute_kernels=["fused"])
        every = distributed.group.WORLD
        assert every is not None, "a process group is there"
        with _quiet():
            planner = EmbeddingShardingPlanner(
                topology=_topology(self._ranks), constraints={table.name: constraint for table in tables}
            )
            try:
                plan = planner.collective_plan(bags, [sharder], every)
            except PlannerError as error:
                size_gib = sum(table.rows * table.dim * 4 for table in tables) / 2**30
                raise ConfigError(
                    f"the tables of the model, {size_gib:.1f} GiB, do not fit into the memory of {self._ranks.size} "
                    "processes, each table into one; set more nodes, more memory, or tables of fewer rows"
                ) from error
            return DistributedModelParallel(
                bags,
                env=ShardingEnv.from_process_group(every),
                device=self._ranks.device,
                plan=plan,
                sharders=[sharder],
                init_data_parallel=False,
            )

    def lookups(self, batches: NetBatches) -> Lookups:
        """Return what examples look up, as rows of tables."""
        return lookups_of(batches, self._features, self._tables, self._first_rows)

    def forward(self, lookups: Lookups) -> Tensor:
        """Return the pooled embeddings of each example; float32 [B, E]. An empty bag pools to zeros.

        All ranks call it, each with its own examples.
        """
        rows, factors = lookups.joined()
        bags = KeyedJaggedTensor(
            keys=self._columns,
            values=rows,
            weights=factors,
            lengths=torch.from_numpy(lookups.lengths()),
        ).to(self._ranks.device)
        pooled = self._lookup(bags)
        return torch.cat([pooled[column] for column in self._columns], dim=1)

    def weights(self) -> dict[str, Tensor]:
        """Return this process's tables, [rows, dim], by name; writing to one changes the table."""
        with _quiet():
            return self._own(self._lookup.state_dict(), _WEIGHT)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return Adagrad's sum of squares for each row, [rows], by table of this process; writing changes the state."""
        with _quiet():
            states = self._lookup.fused_optimizer.state_dict()["state"].values()
            return self._own({name: value for state in states for name, value in state.items()}, _MOMENTUM)

    def _own(self, found: Mapping[str, Any], name: str) -> dict[str, Tensor]:
        tensors = {table: found[name.format(table)] for table in self._first_rows if name.format(table) in found}
        return {table: shard.tensor for table, tensor in tensors.items() for shard in tensor.local_shards()}


def _topology(ranks: Ranks) -> Topology:
    """Return what TorchRec's planner knows of the processes: of their memory, what each may take."""
    memory = {}
    if ranks.device.type == "cuda":
        memory["hbm_cap"] = torch.cuda.get_device_properties(ranks.device).total_memory
    of_node = int(os.environ["LOCAL_WORLD_SIZE"])
    return Topology(
        world_size=ranks.size,
        local_world_size=of_node,
        compute_device=ranks.device.type,
        ddr_cap=_memory_of_node() // of_node,
        **memory,
    )


def _memory_of_node() -> int:
    """Return the memory that this container may have, or else the machine's, in bytes."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text(encoding="ascii").strip() if _CGROUP_LIMIT.exists() else "max"
    return machine if limit == "max" else min(int(limit), machine)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence TorchRec's warnings about its own use of deprecated parts of torch."""
    logger = logging.getLogger("torchrec")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
