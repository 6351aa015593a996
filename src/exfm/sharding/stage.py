"""The stage that turns a vertical model into a bundle: plan, slices, dense network, golden queries."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from exfm.artifact.bundle import DENSE_FILE, GOLDEN_REQUEST, GOLDEN_RESPONSE, BundleManifest, seal_bundle, tables_file
from exfm.artifact.manifest import write_json
from exfm.artifact.storage import Ref, reading, writing
from exfm.events.examples import ExamplesManifest
from exfm.features.batch import encode_examples
from exfm.features.oip import outputs_to_json
from exfm.features.table import raw_columns
from exfm.models.lookup import flatten_tables
from exfm.models.ranking import RankingModel
from exfm.sharding.config import BundleConfig
from exfm.sharding.planner import plan_by_size
from exfm.sharding.query import latest_query
from exfm.training.checkpoint import load_weights
from exfm.training.manifest import ModelManifest


def make_bundle(config: BundleConfig, *, vertical: Ref, out: str) -> BundleManifest:
    """Write the bundle of a vertical model's last snapshot; return its manifest.

    Raises: PlanError if its tables do not fit the shards.
    """
    with reading(vertical) as model_folder, writing(out) as folder:
        model = ModelManifest.read(model_folder)
        trained = RankingModel(model.feature_schema, model.model)
        schema = trained.schema
        snapshot_folder = model_folder / model.snapshots[-1].folder
        load_weights(trained, snapshot_folder)
        plan = plan_by_size(schema, config.sharding)
        _save_tensors(trained.network.state_dict(), folder / DENSE_FILE)
        for shard in range(plan.num_shards):
            flat = flatten_tables(trained.tables.weights(), plan, shard=shard)
            _save_tensors({"fp32": flat}, folder / tables_file(shard))
        with reading(model.inputs["examples"]) as dataset:
            examples = ExamplesManifest.read(dataset)
            rows, request = latest_query(
                dataset, model.windows, schema, domains=model.domains, num_candidates=config.golden_candidates
            )
        scores_NT = trained.probabilities(encode_examples(raw_columns(rows.to_arrow(), schema), schema))
        _save_golden(folder, request, outputs_to_json(schema.tasks(), scores_NT))
        return seal_bundle(
            folder,
            name=model.name,
            schema=schema,
            network=model.model.network.to_dict(),
            plan=plan,
            lineage=_lineage(model, examples),
        )


def headline(manifest: BundleManifest) -> str:
    """Return one line about a bundle."""
    sizes = [manifest.plan.flat_size_bytes(shard) for shard in range(manifest.plan.num_shards)]
    shards = " + ".join(f"{size_bytes / 2**10:,.0f} KiB" for size_bytes in sizes)
    return f"{manifest.name}: {len(manifest.plan.slices)} tables on {len(sizes)} shards ({shards})"


def _lineage(model: ModelManifest, examples: ExamplesManifest) -> dict[str, str]:
    first, last = model.windows[0], model.windows[-1]
    return {
        "event_windows": f"{first.index} to {last.index}: [{first.start}, {last.end})",
        "label_revision": model.label_revision,
        "fm_snapshot": examples.fm_snapshots[model.teacher],
        "vm_snapshot": model.snapshots[-1].version,
        "domains": ", ".join(model.domains),
    }


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(dict(tensors), path)
    path.chmod(0o644)  # safetensors makes it private, but servers run as another user


def _save_golden(folder: Path, request: dict[str, Any], outputs: list[dict[str, Any]]) -> None:
    (folder / GOLDEN_REQUEST).parent.mkdir()
    write_json(folder / GOLDEN_REQUEST, request)
    write_json(folder / GOLDEN_RESPONSE, {"outputs": outputs})
