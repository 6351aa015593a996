"""The stage that turns a vertical model into a bundle: plan, slices, fallback rows, dense network, golden queries."""

from pathlib import Path

import safetensors.torch

from exfm.artifact.bundle import DENSE_FILE, BundleManifest, draft_bundle, note_latest, seal_bundle
from exfm.artifact.fallback_rows import write_fallback_rows
from exfm.artifact.output import writing_once
from exfm.artifact.storage import Ref, reading
from exfm.bundling.config import BundleConfig
from exfm.bundling.counting import statistics_of_examples
from exfm.bundling.fallback import fallback_rows
from exfm.bundling.golden import write_golden
from exfm.bundling.planned import plan_bundle
from exfm.bundling.query import latest_query
from exfm.bundling.shard_files import write_shards
from exfm.events.examples import ExamplesManifest
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.models.ranking import RankingModel
from exfm.planning.counted import Counted
from exfm.training.checkpoint import load_weights
from exfm.training.manifest import ModelManifest

MOVED = "moved"
"""Lineage field: bytes that move from the previous plan, if the settings name one."""
SCORE_SHIFT = "score_shift"
"""Lineage field: largest change of a golden score by the encoding."""


def make_bundle(config: BundleConfig, *, vertical: Ref, out: str) -> BundleManifest:
    """Write the bundle of a vertical model's last snapshot into `out`, the folder of its bundles; return its manifest.

    The bundle is in a folder named by its id. Existing bundles do not change.

    Raises: PlanError if its tables do not fit the shards, or a plan that is named is for others; StorageError or
    ConfigError if what the settings name cannot be read; BundleError if its tables' encoding changes what it scores.
    """
    with (
        reading(vertical) as model_folder,
        writing_once(out, name=lambda made: BundleManifest.read(made, verify=False).bundle_id) as folder,
    ):
        model = ModelManifest.read(model_folder)
        config = config.of_model(model.name)
        trained = RankingModel(model.feature_schema, model.model)
        schema = trained.schema
        snapshot_folder = model_folder / model.snapshots[-1].folder
        load_weights(trained, snapshot_folder)
        (folder / DENSE_FILE).parent.mkdir()
        safetensors.torch.save_file(trained.network.state_dict(), folder / DENSE_FILE)
        (folder / DENSE_FILE).chmod(0o644)  # safetensors makes it private, but servers run as another user
        with reading(model.inputs["examples"]) as dataset:
            examples = ExamplesManifest.read(dataset)
            counted = _counted(config, model, dataset)
            rows, request = latest_query(
                dataset, model.windows, schema, domains=model.domains, num_candidates=config.golden_candidates
            )
        plan, moved = plan_bundle(config, schema, counted.statistics)
        write_shards(folder, trained.tables.weights(), plan, hottest=counted.hottest)
        write_fallback_rows(folder, fallback_rows(trained.tables.weights(), counted))
        draft = draft_bundle(
            name=model.name,
            schema=schema,
            network=model.model.network.to_dict(),
            plan=plan,
            lineage=_lineage(model, examples),
        )
        trained_NT = trained.probabilities(encode_examples(raw_columns(rows.to_arrow(), schema), schema))
        shift = write_golden(folder, draft, request, trained_NT=trained_NT)
        lineage = draft.lineage | {SCORE_SHIFT: f"{shift:.1e}"} | ({MOVED: moved} if moved else {})
        manifest = seal_bundle(folder, draft.model_copy(update={"lineage": lineage}))
    note_latest(out, manifest.bundle_id)
    return manifest


def statistics_of_model(vertical: Ref, *, candidates_mean: float) -> Counted:
    """Return table statistics, counted on the examples that a vertical model learned from.

    Raises: StorageError if the model or its examples cannot be read; DataError if there is none.
    """
    with reading(vertical) as model_folder:
        model = ModelManifest.read(model_folder)
        with reading(model.inputs["examples"]) as dataset:
            return _counted_on_examples(model, dataset, candidates_mean=candidates_mean)


def headline(manifest: BundleManifest) -> str:
    """Return one line about a bundle."""
    sizes = [manifest.plan.flat_size_bytes(shard) for shard in range(manifest.plan.num_shards)]
    shards = " + ".join(f"{size_bytes / 2**10:,.0f} KiB" for size_bytes in sizes)
    num_hot = sum(slice_.num_rows for slice_ in manifest.plan.slices if slice_.kind == "hot")
    hot = f", {num_hot:,} hot rows twice" if num_hot else ""
    tables = len(manifest.feature_schema.tables)
    return (
        f"{manifest.name}: {tables} tables in {manifest.plan.encoding} on {len(sizes)} shards ({shards}){hot}; "
        f"scores within {manifest.lineage[SCORE_SHIFT]} of the model's"
        + (f"; {manifest.lineage[MOVED]}" if MOVED in manifest.lineage else "")
    )


def _counted(config: BundleConfig, model: ModelManifest, dataset: Path) -> Counted:
    if config.table_statistics:
        return Counted.read(config.table_statistics)
    return _counted_on_examples(model, dataset, candidates_mean=config.candidates_mean)


def _counted_on_examples(model: ModelManifest, dataset: Path, *, candidates_mean: float) -> Counted:
    served = model.feature_schema.widen(model.model.dim_factor)
    return statistics_of_examples(
        dataset, model.windows, served, domains=model.domains, candidates_mean=candidates_mean
    )


def _lineage(model: ModelManifest, examples: ExamplesManifest) -> dict[str, str]:
    first, last = model.windows[0], model.windows[-1]
    return {
        "event_windows": f"{first.index} to {last.index}: [{first.start}, {last.end})",
        "label_revision": model.label_revision,
        "fm_snapshot": ", ".join(examples.fm_snapshots[teacher] for teacher in model.teachers),
        "vm_snapshot": model.snapshots[-1].version,
        "domains": ", ".join(model.domains),
    }
