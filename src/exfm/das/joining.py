"""Examples: an impression's features, labels and pseudo-labels in one row of one dataset, sorted by domain.

Every vertical model reads its slice of it: rows of a domain lie together, so a reader skips the others.
"""

from collections.abc import Sequence

import polars as pl

from exfm.das.attribution import ARRIVAL, ROW
from exfm.das.closing import LogState
from exfm.das.log_tables import AGE, FM, SNAPSHOT
from exfm.errors import DataError
from exfm.events.examples import ExampleTable
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
    key, time = state.das.rules.key, state.das.rules.time
    labels = state.labels.read([window]).drop(time, WINDOW)
    rows = state.impressions.read([window], columns=[*state.impression_columns, WINDOW])
    if window in state.late.files:
        rows = pl.concat([rows, state.late_rows(IMPRESSIONS, [window], columns=rows.columns)])
    is_that_row = (pl.col(ARRIVAL) == pl.col(f"{ARRIVAL}_right")) & (pl.col(ROW) == pl.col(f"{ROW}_right"))
    joined = labels.join(rows, on=key, how="left", maintain_order="left").filter(is_that_row)
    if joined.height != labels.height:
        raise DataError(
            f"window {window}: {labels.height} rows are labelled, and {joined.height} of them are in `impressions`; "
            "the tables were changed by another program: restore them"
        )
    return joined.drop(f"{ARRIVAL}_right", f"{ROW}_right", WINDOW)


def examples_of(state: LogState, window: int, foundation_models: Sequence[str]) -> pl.DataFrame:
    """Return the examples of a window, in order of domain, time and key.

    Raises: as `labelled_rows` does.
    """
    das, key = state.das, state.das.rules.key
    joined = labelled_rows(state, window)
    pseudo = state.pseudo_labels.read([window])
    for fm in foundation_models:
        names = {SNAPSHOT: pseudo_snapshot_column(fm), AGE: pseudo_age_column(fm)}
        names |= {task: pseudo_label_column(fm, task) for task in das.schema.tasks()}
        of_fm = pseudo.filter(pl.col(FM) == fm).drop(FM, WINDOW).rename(names)
        joined = joined.join(of_fm, on=key, how="left")  # late impressions were never scored
    columns = das.examples(state.impression_columns, foundation_models).columns
    return joined.sort(das.schema.domain, maintain_order=True).select(list(columns))


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
