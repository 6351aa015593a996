"""A bundle's dense network, and how the shards' pooled embeddings become scores: the same online and offline.

Legend: B rows of one net, E dims of all looked-up features side by side, N items, Y units of the bottom tower, T tasks.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from exfm.artifact.bundle import DENSE_FILE, BundleManifest, tables_file
from exfm.artifact.fallback_rows import NO_FALLBACK_ROWS, FallbackRows, read_fallback_rows
from exfm.artifact.hot_rows import HOT_ROWS_FILE, NO_HOT_ROWS, HotRows, hot_rows_file, read_hot_rows
from exfm.artifact.plan import ShardPlan
from exfm.errors import BundleError
from exfm.features.batch import Bags, Batch, NetBatches
from exfm.models.column_runs import runs_of
from exfm.models.config import NetworkConfig, PooledPrecision, Precision
from exfm.models.dense_part import DensePart, Scores, Unscored
from exfm.models.device import CPU
from exfm.models.local_tables import with_local_tables
from exfm.models.lookup import KeyRouter, Lookup, LookupBags, lookups_of, places_of
from exfm.models.network import DenseNetwork
from exfm.models.pooling import mean_of
from exfm.models.shard_tables import ShardTables
from exfm.schema import NETS, Net

NetPooled = Mapping[Net, Tensor]
"""A shard's pooled embeddings of each net, [B, E] with columns in the order of its lookups, float32 or 16."""


class Scorer:
    """Splits a batch's keys among shards, and turns their pooled embeddings into probabilities."""

    def __init__(
        self,
        manifest: BundleManifest,
        network: DenseNetwork,
        *,
        hot_rows: HotRows = NO_HOT_ROWS,
        fallback_rows: FallbackRows = NO_FALLBACK_ROWS,
        device: torch.device = CPU,
        precision: Precision = "fp32",
        local_tables: Collection[str] = (),
    ) -> None:
        """Make a scorer of a bundle, on a device, with dense layers in this precision.

        `hot_rows` has the rows of the plan's hot slices. Without `fallback_rows`, no shard may be missing.
        `local_tables` are on one more shard, after the last: the ranker itself.

        Raises: ConfigError if this machine cannot multiply in this precision.
        """
        self.manifest = manifest
        self.device = device
        self.local_tables = tuple(local_tables)
        self._dense = DensePart(network, manifest.feature_schema, device=device, precision=precision)
        self._fallback_rows = {table: torch.from_numpy(row) for table, row in fallback_rows.items()}
        schema = manifest.feature_schema
        # The shards use the bundle's plan. This plan has one more shard, the ranker's own tables.
        self.plan = plan = with_local_tables(manifest.plan, schema, local_tables)
        every = [(shard, net) for shard in range(plan.num_shards) for net in NETS]
        self._lookups = {(shard, net): lookups_of(plan, schema, shard=shard, net=net) for shard, net in every}
        self._only = {
            (shard, net): places_of(lookups, lookups_of(manifest.plan, schema, shard=shard, net=net))
            for (shard, net), lookups in self._lookups.items()
            if shard < manifest.plan.num_shards
        }
        self._left_out = [of_net for of_net, only in self._only.items() if only == ()]
        self._runs = {
            net: runs_of([self._lookups[shard, net] for shard in range(plan.num_shards)], net, schema) for net in NETS
        }
        slices = plan.by_table()
        self._shards = {name: [slice_.shard for slice_ in of_table] for name, of_table in slices.items()}
        self._routers = {
            table.name: KeyRouter(slices[table.name], num_rows=table.rows, hot_rows=hot_rows) for table in schema.tables
        }

    @classmethod
    def load(
        cls,
        folder: Path,
        manifest: BundleManifest,
        *,
        device: torch.device = CPU,
        precision: Precision = "fp32",
        local_tables: Collection[str] = (),
    ) -> Self:
        """Return the scorer of a bundle whose files were verified; the ranker itself looks `local_tables` up.

        Raises: BundleError if its parameters, hot rows or fallback rows are missing or malformed, or do not fit network
        and plan; what the constructor raises.
        """
        network = DenseNetwork(manifest.feature_schema, NetworkConfig.parse(manifest.network, source=str(folder)))
        try:
            network.load_state_dict(safetensors.torch.load_file(folder / DENSE_FILE))
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise BundleError(f"{folder / DENSE_FILE}: {error}") from error
        hot_rows = read_hot_rows(folder / HOT_ROWS_FILE, manifest.plan.slices, manifest.feature_schema)
        fallback: FallbackRows = NO_FALLBACK_ROWS
        if manifest.fallback_rows:
            fallback = read_fallback_rows(folder / manifest.fallback_rows, manifest.feature_schema)
        return cls(
            manifest,
            network,
            hot_rows=hot_rows,
            fallback_rows=fallback,
            device=device,
            precision=precision,
            local_tables=local_tables,
        )

    def lookups(self, shard: int, net: Net) -> tuple[Lookup, ...]:
        """Return a shard's lookups for one net, in the order of bags and of columns."""
        return self._lookups[shard, net]

    def bags_for(self, batches: NetBatches) -> list[dict[Net, LookupBags]]:
        """Return the requests to the shards, of each net that a shard has lookups for; empty if no net has rows."""
        bags: list[dict[Net, LookupBags]] = [{} for _ in range(self.plan.num_shards)]
        for net in NETS:
            of_shards: dict[int, list[Bags]] = defaultdict(list)
            for feature in self.manifest.feature_schema.sparse_of(net):
                parts = self._routers[feature.table].split(batches.of(net).bags[feature.name])
                for shard, part in zip(self._shards[feature.table], parts, strict=True):
                    of_shards[shard].append(part)
            for shard, of_shard in of_shards.items():
                bags[shard][net] = LookupBags.of(of_shard, only=self._only.get((shard, net)))
        for shard, net in self._left_out:  # a request has each net of its shard
            bags[shard][net] = LookupBags.of_none(batches.of(net).num_rows)
        return [of_shard if any(of_net.lengths_LB.size for of_net in of_shard.values()) else {} for of_shard in bags]

    def stand_in(self, bags: Mapping[Net, LookupBags], *, shard: int) -> dict[Net, Tensor]:
        """Return what replaces a shard's answer: for each bag, its table's fallback row times the number of keys.

        Raises: BundleError if the bundle has no fallback rows.
        """
        if not self._fallback_rows:
            raise BundleError(f"bundle {self.manifest.name!r} has no fallback rows; export it again")
        return {
            net: torch.cat(
                [
                    torch.from_numpy(lengths_B).unsqueeze(1) * self._fallback_rows[lookup.slice.table]
                    for lookup, lengths_B in zip(self._lookups[shard, net], of_net.lengths_LB, strict=True)
                ],
                dim=1,
            )
            for net, of_net in bags.items()
            if self._lookups[shard, net]
        }

    def tables_of(self, bags: Mapping[Net, LookupBags], *, shard: int) -> set[str]:
        """Return the tables of a shard for which these bags have a key."""
        return {
            lookup.slice.table
            for net, of_net in bags.items()
            for lookup, lengths_B in zip(self._lookups[shard, net], of_net.lengths_LB, strict=True)
            if lengths_B.any()
        }

    def bottom(self, batches: NetBatches) -> Tensor:
        """Return the bottom tower's outputs, [N, Y], which need no shard."""
        return self._dense.bottom(batches)

    def scores(self, batches: NetBatches, of_shards: Sequence[NetPooled], bottom_NY: Tensor) -> Scores:
        """Return the probability of each task for each item, given every shard's pooled embeddings; [N, T].

        One that overflows is NaN. Raises: RequestError if that happens within a layer in int8.
        """
        return self._dense.scores(Unscored(self.pooled(batches, of_shards), bottom_NY, batches.num_candidates))

    @torch.inference_mode()
    def pooled(self, batches: NetBatches, of_shards: Sequence[NetPooled]) -> dict[Net, list[Tensor]]:
        """Return each net's pooled embeddings of all shards together: [B, E], columns in schema's order.

        They come in pieces of columns, float32 or 16, side by side: what lies so already is not copied.
        """
        return {net: self._columns(of_shards, net, batches.of(net)) for net in NETS}

    def _columns(self, of_shards: Sequence[NetPooled], net: Net, batch: Batch) -> list[Tensor]:
        """Return one net's pooled embeddings in at least one piece; values of slices of one table are added."""
        schema = self.manifest.feature_schema
        if batch.num_rows == 0:  # there was no request to shards
            num_dims = sum(schema.table(feature.table).dim for feature in schema.sparse_of(net))
            return [torch.empty((0, num_dims), device=self.device)]
        summed = {
            shard: per_net[net].to(self.device) for shard, per_net in enumerate(of_shards) if self._lookups[shard, net]
        }
        columns = []
        for run in self._runs[net]:
            piece, *others = (summed[shard][:, start:end] for shard, start, end in run.parts)
            for other in others:
                piece = piece.float() + other
            columns.append(mean_of(piece.float(), batch, run.mean_feature) if run.mean_feature else piece)
        return columns or [torch.empty((batch.num_rows, 0), device=self.device)]


def load_local_tables(folder: Path, scorer: Scorer) -> ShardTables:
    """Return the tables that a ranker looks up itself, copied out of the shards' files, which were verified.

    Raises: BundleError if a file is not what the plan says.
    """
    plan, schema, local = scorer.manifest.plan, scorer.manifest.feature_schema, scorer.manifest.plan.num_shards
    flat = torch.empty(scorer.plan.flat_size_bytes(local), dtype=torch.uint8)
    for slice_ in scorer.plan.slices_on(local):
        at = slice_.offset_bytes
        for part in (part for part in plan.by_table()[slice_.table] if part.kind == "rows"):
            held = read_flat(folder, plan, shard=part.shard)[part.offset_bytes : part.offset_bytes + part.size_bytes]
            flat[at : at + part.size_bytes] = held
            at += part.size_bytes
    return ShardTables(flat, scorer.plan, schema, shard=local, device=scorer.device)


def load_shard_tables(
    folder: Path,
    manifest: BundleManifest,
    *,
    shard: int,
    precision: PooledPrecision = "fp32",
    device: torch.device = CPU,
) -> ShardTables:
    """Return one shard's tables, mapped from its file, or copied to another device.

    Raises: BundleError if the file, or that of its hot rows, is not what the plan says.
    """
    plan, schema = manifest.plan, manifest.feature_schema
    flat = read_flat(folder, plan, shard=shard)
    hot_rows = read_hot_rows(folder / hot_rows_file(shard), plan.slices_on(shard), schema)
    return ShardTables(flat, plan, schema, shard=shard, hot_rows=hot_rows, precision=precision, device=device)


def read_flat(folder: Path, plan: ShardPlan, *, shard: int) -> Tensor:
    """Return one shard's flat tensor, mapped from its file.

    Raises: BundleError if the file holds something else.
    """
    path = folder / tables_file(shard)
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path}: {error}") from error
    if set(tensors) != {plan.encoding}:
        raise BundleError(f"{path}: holds tensors {sorted(tensors)}, expected one, {plan.encoding}")
    return tensors[plan.encoding]


class UnshardedScorer:
    """A bundle scored in one process: what `exfm score` runs, and what served scores are compared with."""

    def __init__(self, folder: Path, manifest: BundleManifest, *, precision: Precision = "fp32") -> None:
        """Load a bundle of this manifest, whose files were verified or just written; raises as `Scorer.load`."""
        self.manifest = manifest
        self._scorer = Scorer.load(folder, manifest, precision=precision)
        self._tables = [load_shard_tables(folder, manifest, shard=shard) for shard in range(manifest.plan.num_shards)]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the scorer of a bundle, which was verified.

        Raises: BundleError.
        """
        return cls(folder, BundleManifest.read(folder))

    def scores(self, batches: NetBatches, *, without: Collection[int] = ()) -> Scores:
        """Return the probability of each task for each item; shape [N, T].

        Fallback rows take the place of what the shards in `without` hold, as in a ranker's degraded answer.

        Raises: BundleError if the bundle has no fallback rows, and a shard is to be missing.
        """
        pooled: list[NetPooled] = [
            self._scorer.stand_in(bags, shard=shard)
            if shard in without
            else {net: tables.pooled(net, of_net) for net, of_net in bags.items()}
            for shard, (tables, bags) in enumerate(zip(self._tables, self._scorer.bags_for(batches), strict=True))
        ]
        return self._scorer.scores(batches, pooled, self._scorer.bottom(batches))
