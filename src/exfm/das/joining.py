"""Examples: an impression's features, labels and pseudo-labels in one row of one dataset, sorted by domain.

Every vertical model reads its slice of it: rows of a domain lie together, so a reader skips the others.
"""

from collections.abc import Sequence

import polars as pl

from exfm.das.attribution import ARRIVAL, AT, ROW, located
from exfm.das.closing import LogState
from exfm.das.log_tables import AGE, FM, SNAPSHOT
from exfm.errors import DataError
from exfm.events.examples import ExampleTable, label_column
from exfm.events.log import IMPRESSIONS
from exfm.schema import pseudo_age_column, pseudo_label_column, pseudo_snapshot_column
from exfm.tables.commit import commit, stage
from exfm.tables.grid import WINDOW


def due_examples(state: LogState, foundation_models: Sequence[str]) -> list[int]:
    """Return windows with labels and all pseudo-labels, but without examples of their revisions, in order of time."""
    return [
        window
        for window in sorted(state.labels.files)
        if state.examples.newest_revision(window) < revision_of(state, window, foundation_models)
    ]


def revision_of(state: LogState, window: int, foundation_models: Sequence[str]) -> int:
    """Return the revision of a window's examples, which grows with those of what they are made from; 0: not yet.

    Foundation models that the run no longer has count too, so that it never falls.
    """
    scored = {file.part for file in state.pseudo_labels.files.get(window, ())}
    if not scored.issuperset(foundation_models):
        return 0
    pseudo = sum(state.pseudo_labels.newest_revision(window, part=fm) for fm in scored)
    return state.labels.newest_revision(window) + pseudo


def labelled_rows(state: LogState, window: int) -> pl.DataFrame:
    """Return the impressions of a window with their labels, in order of time, then of key.

    Raises: DataError if an impression that was labelled is not there.
    """
    rows = _impressions(state, window)
    return _taken(rows, _labels(state, window, rows))


def examples_of(state: LogState, window: int, foundation_models: Sequence[str]) -> pl.DataFrame:
    """Return the examples of a window, in order of domain, time and key.

    Raises: as `labelled_rows` does.
    """
    das, key, domain = state.das, state.das.rules.key, state.das.schema.domain
    rows = _impressions(state, window)
    labels = _labels(state, window, rows)
    pseudo = state.pseudo_labels.read([window])
    for fm in foundation_models:
        names = {SNAPSHOT: pseudo_snapshot_column(fm), AGE: pseudo_age_column(fm)}
        names |= {task: pseudo_label_column(fm, task) for task in das.schema.tasks()}
        of_fm = pseudo.filter(pl.col(FM) == fm).drop(FM, WINDOW).rename(names)
        labels = labels.join(of_fm, on=key, how="left", maintain_order="left")  # late impressions were never scored
    # A group keeps the order of its rows. To sort all rows by a text would take five times as long.
    by_domain = labels.with_columns(rows[domain].gather(labels[AT])).group_by(domain).agg(pl.all()).sort(domain)
    columns = das.examples(state.impression_columns, foundation_models).columns
    return _taken(rows, by_domain.explode(labels.columns)).select(list(columns))


def _impressions(state: LogState, window: int) -> pl.DataFrame:
    """Return all impressions of a window, also late ones, as they arrived."""
    columns = list(state.impression_columns)
    rows = state.impressions.read([window], columns=columns)
    return pl.concat([rows, state.late_rows(IMPRESSIONS, [window], columns=columns)])


def _labels(state: LogState, window: int, impressions: pl.DataFrame) -> pl.DataFrame:
    """Return key and labels of a window in order of time, then of key, and AT.

    Raises: DataError if an impression that was labelled is not there.
    """
    key, tasks = state.das.rules.key, state.das.schema.tasks()
    labels = state.labels.read([window], columns=[key, ARRIVAL, ROW, *(label_column(task) for task in tasks)])
    found = located(labels, impressions, key=key)
    if found.height != labels.height:
        raise DataError(
            f"window {window}: {labels.height} rows are labelled, and {found.height} of them are in `impressions`; "
            "the tables were changed by another program: restore them"
        )
    return found.drop(ARRIVAL, ROW)


def _taken(impressions: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Return the impressions at AT, beside their labels: each column is copied once."""
    beside = labels.select(pl.exclude(AT, *impressions.columns))
    return impressions.drop(ARRIVAL, ROW)[labels[AT]].hstack(beside)


def join_window(state: LogState, window: int, foundation_models: Sequence[str]) -> bool:
    """Commit the examples of a window; return whether this run did it.

    Raises: as `labelled_rows` does.
    """
    table = state.das.examples(state.impression_columns, foundation_models)
    inputs = {name: getattr(state, name).version for name in ("impressions", "labels", "pseudo_labels")}
    examples = examples_of(state, window, foundation_models)
    revision = revision_of(state, window, foundation_models)
    return commit(
        table,
        [stage(table, examples, window=window, revision=revision)],
        item=f"examples/{window}",
        revision=revision,
        replaces=window,
        inputs=inputs,
    )


def example_table(state: LogState) -> ExampleTable:
    """Return the examples as models read them."""
    return ExampleTable(state.examples, state.das.schema, state.das.window_length)
