"""A bundle's dense network, and how the shards' sums become scores: the same online and offline.

Legend: B rows of one net, E dims of all looked-up features side by side, N items, T tasks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from exfm.artifact.bundle import DENSE_FILE, BundleManifest, tables_file
from exfm.errors import BundleError
from exfm.features.batch import Bags, NetBatches
from exfm.models.config import NetworkConfig
from exfm.models.lookup import Lookup, ShardTables, lookups_of, owned_bags
from exfm.models.network import DenseNetwork, dense_inputs, expand_users
from exfm.models.pooling import pool_sums
from exfm.schema import NETS, Net


class Scorer:
    """Splits a batch's keys among shards, and turns their sums into probabilities."""

    def __init__(self, manifest: BundleManifest, network: DenseNetwork) -> None:
        self.manifest = manifest
        self._network = network.eval()
        self._lookups: dict[tuple[int, Net], tuple[Lookup, ...]] = {
            (shard, net): lookups_of(manifest.plan, manifest.feature_schema, shard=shard, net=net)
            for shard in range(manifest.plan.num_shards)
            for net in NETS
        }

    @classmethod
    def load(cls, folder: Path, manifest: BundleManifest) -> Self:
        """Return the scorer of a bundle whose files were verified.

        Raises: BundleError if its parameters are missing, or do not fit its network's sizes.
        """
        network = DenseNetwork(manifest.feature_schema, NetworkConfig.parse(manifest.network, source=str(folder)))
        try:
            network.load_state_dict(safetensors.torch.load_file(folder / DENSE_FILE))
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise BundleError(f"{folder / DENSE_FILE}: {error}") from error
        return cls(manifest, network)

    def lookups(self, shard: int, net: Net) -> tuple[Lookup, ...]:
        """Return what a shard looks up for one net, in the order of bags and of columns."""
        return self._lookups[shard, net]

    def bags_for(self, batches: NetBatches, *, shard: int, net: Net) -> list[Bags]:
        """Return the keys that a shard owns, a Bags for each of its lookups."""
        return [
            owned_bags(batches.of(net).bags[lookup.feature.name], lookup.slice) for lookup in self._lookups[shard, net]
        ]

    @torch.inference_mode()
    def scores(self, batches: NetBatches, sums: Sequence[Mapping[Net, Tensor]]) -> npt.NDArray[np.float32]:
        """Return the probability of each task for each item; shape [N, T].

        `sums` holds every shard's sums for each net, [B, E] with columns in the order of its lookups.
        """
        schema = self.manifest.feature_schema
        pooled = {
            net: pool_sums(self._assemble(sums, net, batches.of(net).num_rows), batches.of(net),
                           schema.sparse_of(net), schema)
            for net in NETS
        }  # fmt: skip
        pooled_NE = expand_users(pooled, torch.from_numpy(batches.num_candidates))
        scores_NT: npt.NDArray[np.float32] = self._network(pooled_NE, dense_inputs(batches)).sigmoid().numpy()
        return scores_NT

    def _assemble(self, sums: Sequence[Mapping[Net, Tensor]], net: Net, num_rows: int) -> Tensor:
        """Return one net's sums, columns in the schema's order; the slices of one table add up."""
        by_feature: dict[str, Tensor] = {}
        for shard, per_net in enumerate(sums):
            lookups = self._lookups[shard, net]
            parts = torch.split(per_net[net], [lookup.dim for lookup in lookups], dim=1) if lookups else ()
            for lookup, part in zip(lookups, parts, strict=True):
                name = lookup.feature.name
                by_feature[name] = by_feature[name] + part if name in by_feature else part
        features = self.manifest.feature_schema.sparse_of(net)
        return torch.cat([torch.empty((num_rows, 0)), *(by_feature[feature.name] for feature in features)], dim=1)


def load_shard_tables(folder: Path, manifest: BundleManifest, *, shard: int) -> ShardTables:
    """Return one shard's tables, mapped from its file.

    Raises: BundleError if the file is not what the plan says.
    """
    path = folder / tables_file(shard)
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path}: {error}") from error
    if set(tensors) != {"fp32"}:
        raise BundleError(f"{path}: holds tensors {sorted(tensors)}, expected one, fp32")
    return ShardTables(tensors["fp32"], manifest.plan, manifest.feature_schema, shard=shard)


class UnshardedScorer:
    """A bundle scored in one process: what `exfm score` runs, and what served scores are held against."""

    def __init__(self, folder: Path) -> None:
        """Load and verify a bundle.

        Raises: BundleError.
        """
        self.manifest = BundleManifest.read(folder)
        self._scorer = Scorer.load(folder, self.manifest)
        self._tables = [
            load_shard_tables(folder, self.manifest, shard=shard) for shard in range(self.manifest.plan.num_shards)
        ]

    def scores(self, batches: NetBatches) -> npt.NDArray[np.float32]:
        """Return the probability of each task for each item; shape [N, T]."""
        sums: list[Mapping[Net, Tensor]] = [
            {
                net: tables.sums(
                    self._scorer.lookups(shard, net),
                    self._scorer.bags_for(batches, shard=shard, net=net),
                    num_rows=batches.of(net).num_rows,
                )
                for net in NETS
            }
            for shard, tables in enumerate(self._tables)
        ]
        return self._scorer.scores(batches, sums)
