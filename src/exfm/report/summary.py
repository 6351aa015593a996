"""A run's figures, for report.html, the terminal and summary.json."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import FiniteFloat

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.manifest import Window
from exfm.artifact.plan import SliceKind
from exfm.artifact.storage import Ref
from exfm.config import Config
from exfm.das.accounts import Account
from exfm.das.attribution import FEEDBACK_STATES
from exfm.das.closing import IMPRESSION_STATES
from exfm.das.reporting import WindowFigures
from exfm.errors import StorageError
from exfm.evaluation.comparison import Comparison
from exfm.events.log import FEEDBACK, IMPRESSIONS
from exfm.metrics.quality import Quality
from exfm.report.answer import Answer, read_answer
from exfm.report.comparison import VERTICAL, TaskComparison, compare
from exfm.report.outputs import AGE, SNAPSHOT, FoundationOutputs, RunOutputs, VerticalOutputs
from exfm.report.timeliness import Timeliness, measure
from exfm.serving.smoke_test import SmokeTest
from exfm.tables.grid import WINDOW
from exfm.tables.reference import TableRef
from exfm.training.manifest import ModelManifest, TableIds

PROMISED_TIMES = 10
"""A foundation model has at least this many times the parameters of every vertical model that it teaches."""


class WindowReport(Config):
    """The figures of one window."""

    start: str
    """When the window starts: a date with time of day in UTC, or a step of ordinal time."""
    window: int
    """Its index in the tables."""
    figures: dict[str, dict[str, FiniteFloat]]
    """By figure, and by what it is of: a task, a foundation model, a part of the log, a column; empty: the window."""


class DataSummary(Config):
    """The log and its examples."""

    source: str
    notes: tuple[str, ...]
    """Sentences that a report on these events must contain."""
    time_kind: Literal["absolute", "ordinal"]
    windows: tuple[Window, ...]
    """Those that have examples, in order of time; the index is that of the tables."""
    complete_until: int
    """Event time up to which the log is complete."""
    impressions: dict[str, int]
    """Rows that arrived, by what became of them: IMPRESSION_STATES, `pending`, `late` or `rejected`."""
    feedback: dict[str, int]
    """Likewise: FEEDBACK_STATES, `pending` or `rejected`."""
    reports: tuple[WindowReport, ...]
    """What `das_report` has, in order of time."""


class PseudoLabelsSummary(Config):
    """A foundation model's labels."""

    num_scored: int
    num_unscored: int
    """Examples that no snapshot could score: most are older than the first one."""
    num_snapshots: int
    """Snapshots that scored an impression."""
    newest_snapshot: str
    """The version that scored the last window; empty: none could."""
    timeliness: Timeliness


class FoundationSummary(Config):
    """A foundation model."""

    name: str
    published: str = ""
    """Where another run, which trains it, publishes it; empty: this run trains it. Of a published one `overall`,
    `references` and `ids` are empty, because they are of another log."""
    num_parameters: int
    times_largest_vertical: FiniteFloat
    """Parameters of the foundation model over those of the largest vertical model."""
    overall: dict[str, Quality]
    """Quality on all domains, after the model's own warm-up, by task."""
    references: dict[str, dict[str, Quality]]
    """Quality of the reference lines on the same examples, by their names."""
    ids: dict[int, dict[str, TableIds]]
    """Ids that the model looked up, by window and table."""
    pseudo_labels: PseudoLabelsSummary

    def keeps_promise(self) -> bool:
        """Return whether it has at least PROMISED_TIMES the parameters of each vertical model."""
        return self.times_largest_vertical >= PROMISED_TIMES


class VerticalSummary(Config):
    """A vertical model."""

    name: str
    domains: tuple[str, ...]
    """Empty: all."""
    num_parameters: int
    snapshot: str
    """The version that its bundle serves."""
    warmup_windows: int
    counted_windows: tuple[int, ...]
    """Indices of the windows that are compared."""
    tasks: dict[str, TaskComparison]
    ids: dict[int, dict[str, TableIds]]
    """Ids that the model looked up, by window and table."""


class TableBytes(Config):
    """The slice of a table on one shard."""

    table: str
    kind: SliceKind = "rows"
    """`hot`: copies of its hottest rows, which are also among its `rows`."""
    num_rows: int
    size_bytes: int


class BundleSummary(Config):
    """A vertical model as it is served."""

    name: str
    bundle_id: str
    strategy: str
    shards: tuple[tuple[TableBytes, ...], ...]

    @classmethod
    def of(cls, bundle: BundleManifest) -> Self:
        """Return the summary of a bundle's manifest."""
        shards = tuple(
            tuple(
                TableBytes(table=slice_.table, kind=slice_.kind, num_rows=slice_.num_rows, size_bytes=slice_.size_bytes)
                for slice_ in bundle.plan.slices_on(shard)
            )
            for shard in range(bundle.plan.num_shards)
        )
        return cls(name=bundle.name, bundle_id=bundle.bundle_id, strategy=bundle.plan.strategy, shards=shards)


class RegisteredVersion(Config):
    """A model version in the registry."""

    name: str
    version: str
    aliases: tuple[str, ...]
    bundle_id: str


class Summary(Config):
    """A run's figures; a window goes by its index in the tables."""

    format_version: Literal[5] = 5
    name: str
    """Name of the run."""
    warnings: tuple[str, ...]
    """Sentences on models that are worse than their base rate."""
    data: DataSummary
    foundations: tuple[FoundationSummary, ...]
    verticals: tuple[VerticalSummary, ...]
    bundles: tuple[BundleSummary, ...]
    registered: tuple[RegisteredVersion, ...]
    comparison: Comparison | None
    """What distillation gains, on the same examples; None: methods were not compared."""
    answer: Answer
    provenance: dict[str, Ref | TableRef]
    """All models and bundles of the run by their content, and the tables that they were made from by version."""

    @classmethod
    def of(
        cls,
        outputs: RunOutputs,
        *,
        name: str,
        registrations: Sequence[Mapping[str, Any]],
        comparison: Comparison | None,
        smoke_test: SmokeTest,
    ) -> Self:
        """Return the figures of a run.

        Raises: StorageError if the smoke test served another run's bundle, or the comparison is of other examples;
        DataError if its answer has a score that is not a number.
        """
        examples = outputs.examples
        if comparison and comparison.examples != examples:
            found = comparison.examples
            raise StorageError(
                f"the comparison of methods is of {found.table}, version {found.version}, and the newest is "
                f"{examples.table}, version {examples.version}; run `exfm distill compare` again, or remove "
                "comparison.json"
            )
        trained = [fm.manifest for fm in outputs.foundations if not fm.published]
        models = [*trained, *(vertical.manifest for vertical in outputs.verticals)]
        largest = max(vertical.manifest.num_parameters for vertical in outputs.verticals)
        return cls(
            name=name,
            warnings=tuple(warning for model in models for warning in model.warnings()),
            data=_data(outputs),
            foundations=tuple(
                _foundation(fm, largest_vertical=largest, time_kind=outputs.event_time.kind)
                for fm in outputs.foundations
            ),
            verticals=tuple(
                _vertical(vertical, foundations=[fm.name for fm in trained]) for vertical in outputs.verticals
            ),
            bundles=tuple(BundleSummary.of(bundle) for bundle in outputs.bundles),
            registered=tuple(
                RegisteredVersion(**{field: registration[field] for field in RegisteredVersion.model_fields})
                for registration in registrations
            ),
            comparison=comparison,
            answer=read_answer(smoke_test, bundles=outputs.bundles, names=outputs.about.names),
            provenance={"examples": examples, "predictions": outputs.predictions, **outputs.refs},
        )

    def trained_foundations(self) -> tuple[str, ...]:
        """Return the foundation models that the run trains: those that vertical models are compared with."""
        return tuple(fm.name for fm in self.foundations if not fm.published)

    def headline(self) -> str:
        """Return one line about the run."""
        entropies = [
            entropy
            for vertical in self.verticals
            for task in vertical.tasks.values()
            if (entropy := task.qualities[VERTICAL].normalized_entropy) is not None
        ]
        models = f"{len(self.verticals)} vertical model{'s' if len(self.verticals) != 1 else ''}"
        figures = f", NE {min(entropies):.4f} to {max(entropies):.4f}" if entropies else ", no figure"
        return "; ".join((*self.warnings, models + figures))


def _data(outputs: RunOutputs) -> DataSummary:
    return DataSummary(
        source=outputs.about.source,
        notes=outputs.about.notes,
        time_kind=outputs.event_time.kind,
        windows=outputs.windows,
        complete_until=outputs.complete_until,
        impressions=_fates(outputs.accounts, IMPRESSIONS, states=IMPRESSION_STATES),
        feedback=_fates(outputs.accounts, FEEDBACK, states=FEEDBACK_STATES),
        reports=tuple(
            WindowReport(start=report.start, window=report.window, figures=_by_figure(report))
            for report in outputs.reports
        ),
    )


def _by_figure(report: WindowFigures) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for (figure, of), value in report.values.items():
        found.setdefault(figure, {})[of] = value
    return found


def _fates(accounts: Iterable[Account], part: str, *, states: Sequence[str]) -> dict[str, int]:
    """Return how many rows of a part of the log met each fate; together they are all that arrived."""
    counts = Counter(dict.fromkeys((*states, "pending", "late", "rejected"), 0))
    for account in accounts:
        if account.part == part:
            counts.update(pending=account.pending, late=account.late, rejected=account.rejected)
            counts.update({"not_shown": account.unshown} if account.unshown else {})
            counts.update(account.states or {})
    return dict(counts)


def _foundation(
    fm: FoundationOutputs, *, largest_vertical: int, time_kind: Literal["absolute", "ordinal"]
) -> FoundationSummary:
    model, scored = fm.manifest, fm.pseudo_labels.drop_nulls()
    return FoundationSummary(
        name=fm.name,
        published=fm.published,
        num_parameters=model.num_parameters,
        times_largest_vertical=model.num_parameters / largest_vertical,
        overall={} if fm.published else model.overall,
        references={} if fm.published else model.references,
        ids={} if fm.published else _ids(model),
        pseudo_labels=PseudoLabelsSummary(
            num_scored=scored.height,
            num_unscored=fm.pseudo_labels.height - scored.height,
            num_snapshots=scored[SNAPSHOT].n_unique(),
            newest_snapshot=fm.newest_snapshot,
            timeliness=measure(scored.select(WINDOW, AGE), kind=time_kind),
        ),
    )


def _ids(model: ModelManifest) -> dict[int, dict[str, TableIds]]:
    return {quality.window: quality.tables for quality in model.qualities}


def _vertical(vertical: VerticalOutputs, *, foundations: Sequence[str]) -> VerticalSummary:
    model, predictions = vertical.manifest, vertical.predictions
    compared = set(predictions[WINDOW].to_list())
    counted = tuple(window.index for window in model.counted if window.index in compared)
    return VerticalSummary(
        name=model.name,
        domains=model.domains,
        num_parameters=model.num_parameters,
        snapshot=model.snapshots[-1].version,
        warmup_windows=model.training.warmup_windows,
        counted_windows=counted,
        tasks={
            label.name: compare(predictions, label.name, foundations=foundations, counted_windows=counted)
            for label in model.feature_schema.labels
        },
        ids=_ids(model),
    )
