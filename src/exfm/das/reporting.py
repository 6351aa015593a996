"""The report of a window that is done: what became of its rows, and how its examples look.

It is a function of tables and arrival: it has what was known when the window was closed, whenever a run makes it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from exfm.das.accounts import feedback_states
from exfm.das.attribution import ARRIVAL, ROW
from exfm.das.closing import LogState, feedback_figure
from exfm.das.drift import drift
from exfm.das.log_tables import FIGURE, OF, PART, VALUE
from exfm.events.examples import label_column, labels_of, weights_of
from exfm.events.log import IMPRESSIONS
from exfm.metrics.quality import normalized_entropy
from exfm.schema import Schema, pseudo_age_column, pseudo_label_column
from exfm.tables.commit import commit, stage
from exfm.tables.grid import WINDOW

Figure = tuple[str, str, float]
"""FIGURE, OF and VALUE."""

EXAMPLE_FIGURES = ("label_rate", "coverage", "fm_age", "pseudo_label_ne")
"""Figures of labels and pseudo-labels."""


def due_reports(state: LogState) -> list[int]:
    """Return windows that are closed and joined, but without a report of their revision, in order of time.

    A window waits for those before it, which it is compared with.
    """
    due = []
    for window in state.closed({*state.windows, *state.feedback.files}):
        if window in state.windows and window not in state.examples.files:
            break
        if state.report.newest_revision(window) < _revision(state, window):
            due.append(window)
    return due


def _revision(state: LogState, window: int) -> int:
    """Return the revision of a window's report, which is that of its examples; a window may have none."""
    return max(1, state.examples.newest_revision(window))


@dataclass(frozen=True)
class WindowFigures:
    """The report of one window."""

    window: int
    """Index on the grid."""
    revision: int
    """Of its examples, from 1 on."""
    start: str
    """Of the window, as people write it."""
    values: Mapping[tuple[str, str], float]
    """By FIGURE and OF."""


def figures_of(state: LogState, windows: Iterable[int]) -> list[WindowFigures]:
    """Return the reports of those windows that have one, in order of time.

    Raises: StorageError if the table cannot be read.
    """
    reported = sorted(set(windows) & set(state.report.files))
    rows = state.report.read(reported, columns=[WINDOW, FIGURE, OF, VALUE])
    values: dict[int, dict[tuple[str, str], float]] = {window: {} for window in reported}
    for window, figure, of, value in rows.iter_rows():
        values[window][figure, of] = value
    return [
        WindowFigures(
            window=window,
            revision=state.report.newest_revision(window),
            start=state.das.time_text(state.das.grid.window(window).start),
            values=found,
        )
        for window, found in values.items()
    ]


def newest_figures(state: LogState, *, num_windows: int) -> list[WindowFigures]:
    """Return the reports of the newest windows that have one, in order of time.

    Raises: StorageError if the table cannot be read.
    """
    return figures_of(state, sorted(state.report.files)[-num_windows:])


def newest_reported(state: LogState) -> int | None:
    """Return the newest window with examples and a report; None: there is none."""
    return max(set(state.report.files) & set(state.examples.files), default=None)


def report_window(state: LogState, window: int, foundation_models: Sequence[str]) -> bool:
    """Commit the report of a closed window, whose examples are there; return whether this run did it.

    Of examples that were revised, the labels' and pseudo-labels' figures are made again.
    """
    table, revision = state.das.report(), _revision(state, window)
    before = state.report.read([window], columns=list(table.columns)).filter(~pl.col(FIGURE).is_in(EXAMPLE_FIGURES))
    figures = list(before.iter_rows()) or [*_rows(state, window), *_drifts(state, window)]
    figures += _examples(state, window, foundation_models)
    rows = pl.DataFrame(figures, schema=dict(table.columns), orient="row")
    return commit(
        table,
        [stage(table, rows, window=window, revision=revision)],
        item=f"das_report/{window}",
        revision=revision,
        replaces=window,
        inputs={name: getattr(state, name).version for name in ("impressions", "feedback", "labels", "examples")},
    )


def _rows(state: LogState, window: int) -> Iterator[Figure]:
    """Yield what became of a window's rows, and of the rows that arrived while it was open."""
    until = state.closed_with(window)
    assert until is not None, f"window {window} is not closed"
    place = [ARRIVAL, ROW]
    labels = state.labels.read([window], columns=place)
    late = state.late_rows(IMPRESSIONS, [window], columns=place)  # labelled again, they may be examples
    yield "examples", "", labels.join(late, on=place, how="anti").height
    yield "duplicates", "", state.num_duplicates(window)
    for name, count in _feedback_states(state, window, until=until).items():
        yield feedback_figure(name), "", count
    yield from _shares(state, window, until=until)


def _shares(state: LogState, window: int, *, until: str) -> Iterator[Figure]:
    """Yield which shares of rows came too late or were rejected, in files since the one that closed a window before."""
    windows = {*state.report.files, *state.impressions.files, *state.feedback.files}
    earlier = sorted((other for other in windows if other < window), reverse=True)
    before = next((name for other in earlier if (name := state.closed_with(other)) != until), None) or ""
    counts = ["num_rows", "num_late", "num_rejected", "num_unshown"]
    of_window = state.file_counts.filter((pl.col("name") > before) & (pl.col("name") <= until))
    sums = of_window.group_by(PART).agg(pl.col(counts).sum()).sort(PART)
    for part, rows, late, rejected, unshown in sums.iter_rows():
        if rows > unshown:
            yield "late_share", part, late / (rows - unshown)
            yield "rejected_share", part, rejected / rows


def _feedback_states(state: LogState, window: int, *, until: str) -> dict[str, int]:
    das = state.das
    near = range(window - 2 * state.reach - 1, window + 1)
    columns = [das.rules.key, das.rules.time, WINDOW]
    before = state.labels.read(near, columns=columns)
    after = state.unique_impressions(window + 1).filter(pl.col(ARRIVAL) <= until).select(columns)  # of early feedback
    feedback = state.feedback_of(range(window - state.reach, window + state.reach + 1), until=until)
    own_keys = feedback.filter(pl.col(WINDOW) == window).select(das.rules.key)
    feedback, before, after = (rows.join(own_keys, on=das.rules.key, how="semi") for rows in (feedback, before, after))
    impressions = pl.concat([before, after]).unique(das.rules.key, keep="first", maintain_order=True)
    known = {other: name for other in near if (name := state.closed_with(other)) is not None}
    return feedback_states(feedback, impressions, das.rules, window=window, known=known)


def _examples(state: LogState, window: int, foundation_models: Sequence[str]) -> Iterator[Figure]:
    """Yield rates of labels, and how many examples have pseudo-labels, of which age, and how good."""
    schema = state.das.schema
    columns = [label_column(task) for task in schema.tasks()]
    columns += [column for column in (schema.weight, schema.negative_sampling_rate) if column]
    joined = [fm for fm in foundation_models if pseudo_age_column(fm) in state.examples.columns]
    for fm in joined:
        columns += [pseudo_age_column(fm), *(pseudo_label_column(fm, task) for task in schema.tasks())]
    examples = state.examples.read([window], columns=columns)
    if examples.is_empty():
        return
    for task in schema.tasks():
        rate = examples[label_column(task)].mean()
        assert isinstance(rate, float)
        yield "label_rate", task, rate
    for fm in joined:
        scored = examples.drop_nulls(pseudo_age_column(fm))
        yield "coverage", fm, scored.height / examples.height
        age = scored[pseudo_age_column(fm)].mean()
        if isinstance(age, float):
            yield "fm_age", fm, age
        yield from _entropies(scored, fm, schema)


def _entropies(scored: pl.DataFrame, fm: str, schema: Schema) -> Iterator[Figure]:
    labels_BT = labels_of(scored, schema)
    weights_BT = weights_of(scored, schema, labels_BT)
    for t, task in enumerate(schema.tasks()):
        taught = scored[pseudo_label_column(fm, task)].fill_null(np.nan).to_numpy()
        is_taught = ~np.isnan(taught)
        entropy = normalized_entropy(taught[is_taught], labels_BT[is_taught, t], weights_BT[is_taught, t])
        if entropy is not None:
            yield "pseudo_label_ne", f"{fm}.{task}", entropy


def _drifts(state: LogState, window: int) -> Iterator[Figure]:
    """Yield how far the domain and each feature moved from the newest earlier window with examples."""
    before = max((other for other in state.examples.files if other < window), default=None)
    if before is None or window not in state.examples.files:
        return
    schema = state.das.schema
    numbers = {feature.name for feature in schema.dense}
    columns = dict.fromkeys([schema.domain, *schema.feature_names()])
    for column in (one for one in columns if one in state.examples.columns):  # one at a time, because of memory
        rows = state.examples.read([before, window], columns=[column, WINDOW])
        if column in numbers:
            rows = rows.cast({column: pl.Float64})
        of_window = pl.col(WINDOW) == window
        value = drift(rows.filter(~of_window)[column], rows.filter(of_window)[column])
        if value is not None:
            yield "drift", column, value
