"""A run's outputs: manifests, what became of its log, and all models' predictions on the vertical models' examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.manifest import Window
from exfm.artifact.storage import Ref, reading
from exfm.das.accounts import Account
from exfm.das.closing import LogState, accounts
from exfm.das.joining import example_table
from exfm.das.log_tables import Das
from exfm.das.reporting import WindowFigures, figures_of
from exfm.errors import DataError, StorageError
from exfm.events.examples import ExampleTable
from exfm.events.sources import About
from exfm.report.comparison import TRUTH, VERTICAL, foundation
from exfm.schema import EventTime, pseudo_age_column, pseudo_snapshot_column
from exfm.tables.grid import WINDOW
from exfm.tables.reference import TableRef
from exfm.training.evaluation import predictions_of, read_predictions
from exfm.training.manifest import EXAMPLES, PREDICTIONS, SCORE, ModelManifest

SNAPSHOT, AGE = "snapshot", "age"


@dataclass(frozen=True)
class VerticalOutputs:
    """A vertical model, and predictions on its examples."""

    manifest: ModelManifest
    predictions: pl.DataFrame
    """A row for each example that the vertical model and all foundation models that the run trains predicted: WINDOW,
    `label.<task>`, `weight.<task>`, and a probability from each source that exists (exfm.report.comparison):
    `<source>.<task>`."""


@dataclass(frozen=True)
class FoundationOutputs:
    """A foundation model, and its pseudo-labels."""

    name: str
    """Its name in this run."""
    manifest: ModelManifest
    published: str
    """Where another run, which trains it, publishes it; empty: this run trains it."""
    newest_snapshot: str
    """The version that scored the last window; empty: none could."""
    pseudo_labels: pl.DataFrame
    """A row for each example: WINDOW, SNAPSHOT (its version) and AGE, in event time; null: none could score it."""


@dataclass(frozen=True)
class RunOutputs:
    """A finished run."""

    about: About
    event_time: EventTime
    complete_until: int
    """Event time up to which the log is complete."""
    accounts: tuple[Account, ...]
    windows: tuple[Window, ...]
    """Those that have examples, in order of time."""
    reports: tuple[WindowFigures, ...]
    """Those of windows from the first one with examples on."""
    examples: TableRef
    predictions: TableRef
    refs: Mapping[str, Ref]
    """All models and bundles of the run."""
    foundations: tuple[FoundationOutputs, ...]
    verticals: tuple[VerticalOutputs, ...]
    bundles: tuple[BundleManifest, ...]


def read_outputs(
    das: Das,
    about: About,
    *,
    foundations: Sequence[Ref],
    published: Mapping[str, Ref],
    verticals: Sequence[Ref],
    bundles: Sequence[Ref],
) -> RunOutputs:
    """Return the outputs of a run on a log, whose source `about` is of.

    `published` are the foundation models that other runs train, by their names in this run.

    Raises: StorageError if a folder or table is missing or was written again since, or the vertical models are not of
    one run; DataError if two models have predicted no example in common.
    """
    models, fms = ([_manifest(ref) for ref in refs] for refs in (verticals, foundations))
    made = [_bundle(ref) for ref in bundles]
    state = LogState.of(das)
    examples = example_table(state)
    _require_models_of(examples.ref, models)
    watermark = state.timeline.watermark
    assert watermark is not None, "a log with examples is complete up to some time"
    return RunOutputs(
        about=about,
        event_time=das.schema.event_time,
        complete_until=watermark // das.ticks(1),
        accounts=tuple(accounts(state)),
        windows=examples.windows,
        reports=tuple(figures_of(state, (w for w in state.report.files if w >= examples.windows[0].index))),
        examples=examples.ref,
        predictions=max((model.tables[PREDICTIONS] for model in models), key=lambda ref: ref.version),
        refs={f"foundation model {fm.name}": ref for fm, ref in zip(fms, foundations, strict=True)}
        | {f"foundation model {name}": ref for name, ref in published.items()}
        | {f"vertical model {model.name}": ref for model, ref in zip(models, verticals, strict=True)}
        | {f"bundle {bundle.name}": ref for bundle, ref in zip(made, bundles, strict=True)},
        foundations=(
            *(_foundation(fm.name, fm, examples) for fm in fms),
            *(_foundation(name, _manifest(ref), examples, published=ref.uri) for name, ref in published.items()),
        ),
        verticals=tuple(VerticalOutputs(model, _predictions(model, fms, examples)) for model in models),
        bundles=tuple(made),
    )


def _manifest(ref: Ref) -> ModelManifest:
    with reading(ref) as folder:
        return ModelManifest.read(folder)


def _bundle(ref: Ref) -> BundleManifest:
    with reading(ref) as folder:
        return BundleManifest.read(folder, verify=False)  # reading() has


def _foundation(
    name: str, manifest: ModelManifest, examples: ExampleTable, *, published: str = ""
) -> FoundationOutputs:
    names = {pseudo_snapshot_column(name): SNAPSHOT, pseudo_age_column(name): AGE}
    pseudo_labels = examples.state.read(examples.state.files, columns=[WINDOW, *names]).rename(names)
    newest = examples.snapshot_of(name, examples.windows[-1].index)
    return FoundationOutputs(name, manifest, published, newest, pseudo_labels)


def _require_models_of(examples: TableRef, models: Sequence[ModelManifest]) -> None:
    tables = {model.tables[EXAMPLES].table for model in models}
    if tables != {examples.table}:
        found = ", ".join(sorted(tables)) or "none"
        raise StorageError(f"a report is on vertical models of {examples.table}; found {found}")


def _predictions(model: ModelManifest, fms: Sequence[ModelManifest], examples: ExampleTable) -> pl.DataFrame:
    schema = model.feature_schema
    key, tasks = schema.impression_key, schema.tasks()
    tested = set.intersection(*({quality.window for quality in one.qualities} for one in (model, *fms)))
    windows = [window for window in model.windows if window.index in tested]
    indices = [window.index for window in windows]
    rows = predictions_of(model, windows).rename({f"{SCORE}.{task}": f"{VERTICAL}.{task}" for task in tasks})
    for fm in fms:
        taught = [task for task in tasks if task in fm.feature_schema.tasks()]
        table, columns = fm.tables[PREDICTIONS].state(), [f"{SCORE}.{task}" for task in taught]
        of_fm = read_predictions(table, indices, line=fm.line, schema=fm.feature_schema, columns=[key, *columns])
        rows = _join(rows, of_fm, {f"{foundation(fm.name)}.{task}": f"{SCORE}.{task}" for task in taught}, key=key)
    truths = {f"{TRUTH}.{label.name}": label.truth for label in schema.labels if label.truth}
    if truths:
        columns = list(dict.fromkeys([key, WINDOW, *truths.values()]))
        rows = _join(rows, examples.state.read(indices, columns=columns), truths, key=key)
    if rows.is_empty():
        names = ", ".join(fm.name for fm in fms)
        raise DataError(f"{model.name} and {names} have predicted no example in common; train all on one log")
    return rows


def _join(rows: pl.DataFrame, other: pl.DataFrame, columns: Mapping[str, str], *, key: str) -> pl.DataFrame:
    """Return the rows that another frame has too, with columns of it under new names."""
    renamed = [pl.col(old).cast(pl.Float32).alias(new) for new, old in columns.items()]
    return rows.join(other.select(key, WINDOW, *renamed), on=[key, WINDOW], maintain_order="left")
