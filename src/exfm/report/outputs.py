"""A run's outputs: manifests, and the predictions of all models on the vertical models' examples."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.manifest import Window
from exfm.artifact.storage import Ref, reading
from exfm.errors import DataError, StorageError
from exfm.events.examples import ExamplesManifest
from exfm.events.labels import LabelsManifest, PseudoLabelsManifest
from exfm.events.log import EventLogManifest, read_names
from exfm.events.partitions import join_rows, partition, read_parquet, read_partition
from exfm.report.comparison import TRUTH, VERTICAL, foundation
from exfm.schema import pseudo_age_column
from exfm.training.manifest import PREDICTIONS, WINDOW, ModelManifest


@dataclass(frozen=True)
class VerticalOutputs:
    """A vertical model, and predictions on its examples."""

    manifest: ModelManifest
    predictions: pl.DataFrame
    """A row for each example of the windows that the vertical model and all foundation models were tested on: WINDOW,
    `label.<task>`, `weight.<task>`, and a probability from each source that exists (exfm.report.comparison):
    `<source>.<task>`."""


@dataclass(frozen=True)
class FoundationOutputs:
    """A foundation model, and its pseudo-labels."""

    manifest: ModelManifest
    folder: Path
    pseudo_labels: PseudoLabelsManifest
    newest_snapshot: str
    """The version that scored the last window; empty: none could."""
    ages: pl.DataFrame
    """A row for each scored impression: WINDOW and `age`, in event time."""


@dataclass(frozen=True)
class RunOutputs:
    """A finished run."""

    refs: Mapping[str, Ref]
    """All folders of the run, by their content."""
    events: EventLogManifest
    labels: LabelsManifest
    foundations: tuple[FoundationOutputs, ...]
    verticals: tuple[VerticalOutputs, ...]
    bundles: tuple[BundleManifest, ...]
    names: Mapping[str, Mapping[Any, str]]
    """Names of ids, by feature."""


def read_outputs(*, foundations: Sequence[Ref], verticals: Sequence[Ref], bundles: Sequence[Ref]) -> RunOutputs:
    """Return a run's outputs; references in the manifests lead to the stages before the models.

    Raises: StorageError if a folder is missing or was written again since, or the vertical models are not of one run;
    DataError if two models' predictions are not for the same impressions.
    """
    with ExitStack() as stack:

        def open_folder(ref: Ref) -> Path:
            return stack.enter_context(reading(ref))

        model_folders = [open_folder(ref) for ref in verticals]
        models = [ModelManifest.read(folder) for folder in model_folders]
        examples_ref = _common_examples(models)
        dataset = open_folder(examples_ref)
        examples = ExamplesManifest.read(dataset)
        log = open_folder(examples.inputs["events"])
        events = EventLogManifest.read(log)
        fms = [_foundation(open_folder(ref), examples, open_folder) for ref in foundations]
        manifests = [BundleManifest.read(open_folder(ref), verify=False) for ref in bundles]
        return RunOutputs(
            refs=examples.inputs
            | {"examples": examples_ref}
            | {f"foundation model {fm.manifest.name}": ref for fm, ref in zip(fms, foundations, strict=True)}
            | {f"vertical model {model.name}": ref for model, ref in zip(models, verticals, strict=True)}
            | {f"bundle {manifest.name}": ref for manifest, ref in zip(manifests, bundles, strict=True)},
            events=events,
            labels=LabelsManifest.read(open_folder(examples.inputs["labels"])),
            foundations=tuple(fms),
            verticals=tuple(
                VerticalOutputs(model, _predictions(model, folder, fms=fms, dataset=dataset))
                for model, folder in zip(models, model_folders, strict=True)
            ),
            bundles=tuple(manifests),
            names={feature: read_names(log, events, feature) for feature in events.names},
        )


def _foundation(folder: Path, examples: ExamplesManifest, open_folder: Callable[[Ref], Path]) -> FoundationOutputs:
    manifest = ModelManifest.read(folder)
    pseudo_folder = open_folder(examples.pseudo_labels_of(manifest.name))
    pseudo = PseudoLabelsManifest.read(pseudo_folder)
    return FoundationOutputs(
        manifest=manifest,
        folder=folder,
        pseudo_labels=pseudo,
        newest_snapshot=examples.fm_snapshots[manifest.name],
        ages=pl.concat([_ages(pseudo_folder, window, fm=manifest.name) for window in pseudo.windows]),
    )


def _common_examples(models: Sequence[ModelManifest]) -> Ref:
    refs = {model.inputs["examples"].digest: model.inputs["examples"] for model in models}
    if len(refs) != 1:
        found = ", ".join(ref.uri for ref in refs.values()) or "none"
        raise StorageError(f"a report is on vertical models of one run's examples; found {found}")
    return next(iter(refs.values()))


def _predictions(
    model: ModelManifest, folder: Path, *, fms: Sequence[FoundationOutputs], dataset: Path
) -> pl.DataFrame:
    key = model.feature_schema.impression_key
    tasks = model.feature_schema.tasks()
    truths = {label.name: label.truth for label in model.feature_schema.labels if label.truth}
    tested = set.intersection(
        *({quality.window for quality in one.qualities} for one in (model, *(fm.manifest for fm in fms)))
    )
    frames = []
    for window in model.windows:
        if window.index not in tested:
            continue
        rows = read_partition(folder / PREDICTIONS, window)
        rows = rows.rename({f"score.{task}": f"{VERTICAL}.{task}" for task in tasks})
        for fm in fms:
            taught = [task for task in tasks if task in fm.manifest.feature_schema.tasks()]
            scores = {f"{foundation(fm.manifest.name)}.{task}": f"score.{task}" for task in taught}
            rows = _join(rows, partition(fm.folder / PREDICTIONS, window), columns=scores, key=key)
        truth = {f"{TRUTH}.{task}": column for task, column in truths.items()}
        rows = _join(rows, partition(dataset, window), columns=truth, key=key)
        frames.append(rows.with_columns(pl.lit(window.index).alias(WINDOW)))
    if not frames:
        names = ", ".join(fm.manifest.name for fm in fms)
        raise DataError(f"{model.name} and {names} have no tested window in common; train all on one log")
    return pl.concat(frames)


def _join(rows: pl.DataFrame, file: Path, *, columns: Mapping[str, str], key: str) -> pl.DataFrame:
    """Return the rows with columns of a file added under new names."""
    if not columns:
        return rows
    other = read_parquet(file, columns=[key, *columns.values()]).select(
        key, *(pl.col(old).cast(pl.Float32).alias(new) for new, old in columns.items())
    )
    return join_rows(rows, other, key=key, of=file, onto="those that a vertical model was tested on there")


def _ages(folder: Path, window: Window, *, fm: str) -> pl.DataFrame:
    column = pseudo_age_column(fm)
    ages = read_partition(folder, window, columns=[column]).rename({column: "age"}).drop_nulls()
    return ages.with_columns(pl.lit(window.index).alias(WINDOW))
