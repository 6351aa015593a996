"""Loads and verifies the files of a bundle that one server needs: a shard never reads another shard's tables."""

from collections.abc import Sequence
from pathlib import Path

import torch

from exfm.artifact.bundle import BundleManifest, tables_file
from exfm.artifact.digests import verify_folder
from exfm.artifact.hot_rows import hot_rows_file
from exfm.errors import BundleError, ConfigError, StorageError
from exfm.models.config import PooledPrecision
from exfm.models.device import CPU
from exfm.models.scoring import Scorer, load_local_tables, load_shard_tables
from exfm.models.shard_tables import ShardTables


def read_manifest(folder: Path, *, bundle_id: str = "") -> BundleManifest:
    """Return a bundle's manifest after a check of its digest; an empty `bundle_id` accepts any bundle.

    Raises: BundleError if the manifest is damaged, or belongs to another bundle.
    """
    manifest = BundleManifest.read(folder, verify=False)
    if bundle_id not in {"", manifest.bundle_id}:
        raise BundleError(
            f"{folder} holds bundle {manifest.bundle_id}, expected {bundle_id}: the folder was overwritten, or is not "
            "the right one; put that bundle into its own folder, or serve the one that is here"
        )
    return manifest


def load_verified(
    folder: Path,
    manifest: BundleManifest,
    *,
    shard: int,
    precision: PooledPrecision = "fp32",
    device: torch.device = CPU,
) -> ShardTables:
    """Return one shard's tables, from verified files; files of other shards are not read.

    Raises: BundleError.
    """
    is_hot = any(slice_.kind == "hot" for slice_ in manifest.plan.slices_on(shard))
    verify_files(folder, manifest, [tables_file(shard), *([hot_rows_file(shard)] if is_hot else [])])
    return load_shard_tables(folder, manifest, shard=shard, precision=precision, device=device)


def load_verified_locals(folder: Path, scorer: Scorer) -> ShardTables:
    """Return the tables that a ranker holds itself, from verified files of all shards with parts of them.

    Raises: ConfigError if the folder is only a ranker's part of a bundle; BundleError.
    """
    plan = scorer.manifest.plan
    shards = sorted({s.shard for s in plan.slices if s.kind == "rows" and s.table in scorer.local_tables})
    missing = [tables_file(shard) for shard in shards if not (folder / tables_file(shard)).exists()]
    if missing:
        raise ConfigError(
            f"shards.local_tables_mib is set, but {folder} lacks {', '.join(missing)}: serve from a folder or a claim "
            "(pvc://) that has the whole bundle (from s3:// a ranker gets only its part), or set it to 0"
        )
    verify_files(folder, scorer.manifest, [tables_file(shard) for shard in shards])
    return load_local_tables(folder, scorer)


def verify_files(folder: Path, manifest: BundleManifest, files: Sequence[str]) -> None:
    """Return if these files of a bundle have the digests in its manifest.

    Raises: BundleError, which names what is missing or damaged.
    """
    for file in files:
        if file not in manifest.files:
            raise BundleError(f"{folder}: the manifest lists no {file}; export the bundle again")
    try:
        verify_folder(folder, {file: manifest.files[file] for file in files})
    except StorageError as error:
        raise BundleError(str(error)) from error
