"""The stage that turns a vertical model into a bundle: plan, slices, fallback rows, dense network, golden queries."""

import safetensors.torch

from exfm.artifact.bundle import DENSE_FILE, BundleManifest, draft_bundle, note_latest, seal_bundle
from exfm.artifact.digests import digest_of_file
from exfm.artifact.fallback_rows import write_fallback_rows
from exfm.artifact.output import writing_once
from exfm.artifact.storage import Ref, reading
from exfm.artifact.stores import join, local_copy
from exfm.bundling.config import BundleConfig
from exfm.bundling.counting import statistics_of_examples
from exfm.bundling.fallback import fallback_rows
from exfm.bundling.golden import write_golden
from exfm.bundling.planned import plan_bundle
from exfm.bundling.query import latest_query
from exfm.bundling.shard_files import write_shards
from exfm.errors import StorageError
from exfm.events.examples import ExampleTable
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.models.ranking import RankingModel
from exfm.planning.counted import Counted
from exfm.training.checkpoint import WEIGHTS, load_weights
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
        last = model.snapshots[-1]
        with local_copy(join(vertical.uri, last.folder), (WEIGHTS,)) as snapshot:
            if digest_of_file(snapshot / WEIGHTS).sha256 != last.digest:
                raise StorageError(
                    f"{join(vertical.uri, last.folder)}: {WEIGHTS} was changed since the model learned; restore it, or "
                    "name another root"
                )
            load_weights(trained, snapshot)
        (folder / DENSE_FILE).parent.mkdir()
        safetensors.torch.save_file(trained.network.state_dict(), folder / DENSE_FILE)
        (folder / DENSE_FILE).chmod(0o644)  # safetensors makes it private, but servers run as another user
        examples = model.examples()
        counted = _counted(config, model, examples)
        rows, request = latest_query(
            examples, model.windows, schema, domains=model.domains, num_candidates=config.golden_candidates
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
        return _counted_on_examples(model, model.examples(), candidates_mean=candidates_mean)


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


def _counted(config: BundleConfig, model: ModelManifest, examples: ExampleTable) -> Counted:
    if config.table_statistics:
        return Counted.read(config.table_statistics)
    return _counted_on_examples(model, examples, candidates_mean=config.candidates_mean)


def _counted_on_examples(model: ModelManifest, examples: ExampleTable, *, candidates_mean: float) -> Counted:
    served = model.feature_schema.widen(model.model.dim_factor)
    return statistics_of_examples(
        examples, model.windows, served, domains=model.domains, candidates_mean=candidates_mean
    )


def _lineage(model: ModelManifest, examples: ExampleTable) -> dict[str, str]:
    """Return what a model was made from; it is part of the bundle's id, so it names no machine's paths."""
    first, last = model.first_learned, model.snapshots[-1]
    return {
        "event_windows": f"{first} to {last.window}: [{first * model.window_length}, {model.learned_until})",
        "examples": f"version {last.examples}",
        "fm_snapshot": ", ".join(examples.snapshot_of(teacher, last.window) for teacher in model.teachers),
        "vm_snapshot": last.version,
        "domains": ", ".join(model.domains),
    }
