"""Versions of a bundle that differ in every table and in the network, so that a mixture of two shows in the scores."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import safetensors.torch

from exfm.artifact.bundle import (
    DENSE_FILE,
    GOLDEN_REQUEST,
    GOLDEN_RESPONSE,
    BundleManifest,
    draft_bundle,
    seal_bundle,
    tables_file,
)
from exfm.artifact.plan import ShardPlan
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.models.offline import answer_request
from exfm.models.scoring import UnshardedScorer

Scores = dict[str, list[float]]


def derive_version(bundle: Path, out: Path, *, scale: float) -> BundleManifest:
    """Write the bundle with its tables and its serving head scaled, and with its own golden scores."""
    shutil.copytree(bundle, out)
    manifest = BundleManifest.read(bundle)
    _scale(out / DENSE_FILE, scale, only="serving_head")
    for shard in range(manifest.plan.num_shards):
        _scale_tables(out / tables_file(shard), manifest.plan, shard, scale)
    seal(out, manifest)
    outputs = answer_request(out, out / GOLDEN_REQUEST)["outputs"]
    (out / GOLDEN_RESPONSE).write_text(json.dumps({"outputs": outputs}), encoding="utf-8")
    return seal(out, manifest)


def seal(folder: Path, like: BundleManifest) -> BundleManifest:
    """Seal a folder as a bundle of the same model, schema and plan as another one."""
    return seal_bundle(
        folder,
        draft_bundle(
            name=like.name, schema=like.feature_schema, network=like.network, plan=like.plan, lineage=like.lineage
        ),
    )


def golden(bundle: Path) -> tuple[dict[str, Any], Scores]:
    """Return a bundle's golden query and the scores that the model gave it offline, by task."""
    request = json.loads((bundle / GOLDEN_REQUEST).read_text(encoding="utf-8"))
    return request, golden_scores(bundle)


def golden_scores(bundle: Path, *, without: Collection[int] = ()) -> Scores:
    """Return the scores that a bundle gives its golden query offline, by task, some of its shards being away."""
    scorer = UnshardedScorer.load(bundle)
    body = json.loads((bundle / GOLDEN_REQUEST).read_text(encoding="utf-8"))
    batches = encode_request(tensors_from_json(body), scorer.manifest.feature_schema)
    scores_NT = scorer.scores(batches, without=without)
    return {task: scores_NT[:, column].tolist() for column, task in enumerate(scorer.manifest.tasks)}


def _scale(file: Path, scale: float, *, only: str) -> None:
    tensors = safetensors.torch.load_file(file)
    scaled = {name: value * scale if name.startswith(only) else value for name, value in tensors.items()}
    safetensors.torch.save_file(scaled, file)
    file.chmod(0o644)


def _scale_tables(file: Path, plan: ShardPlan, shard: int, scale: float) -> None:
    import torch

    flat = safetensors.torch.load_file(file)[plan.encoding].clone()
    for slice_ in plan.slices_on(shard):
        rows = flat[slice_.offset_bytes : slice_.offset_bytes + slice_.size_bytes].view(slice_.num_rows, -1)
        numbers = rows[:, :4] if plan.encoding == "int8" else rows  # its scale and bias
        kind = torch.float32 if plan.encoding == "fp32" else torch.float16
        numbers.copy_((numbers.contiguous().view(kind) * scale).view(torch.uint8))
    safetensors.torch.save_file({plan.encoding: flat}, file)
    file.chmod(0o644)
