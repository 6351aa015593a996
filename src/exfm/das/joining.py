"""Examples: an impression's features, labels and pseudo-labels in one row of one dataset, sorted by domain.

Every vertical model reads its slice of it: rows of a domain lie together, so a reader skips the others.
"""

from collections.abc import Sequence

import polars as pl

from exfm.das.attribution import ARRIVAL, ROW
from exfm.das.closing import LogState
from exfm.das.scoring import AGE, FM, SNAPSHOT, item_of
from exfm.errors import DataError
from exfm.schema import pseudo_age_column, pseudo_label_column, pseudo_snapshot_column
from exfm.tables.commit import commit, stage
from exfm.tables.grid import WINDOW


def due_examples(state: LogState, foundation_models: Sequence[str]) -> list[int]:
    """Return windows with labels and all pseudo-labels, but without examples, in order of time."""
    return [
        window
        for window in sorted(set(state.labels.files) - set(state.examples.files))
        if all(state.pseudo_labels.revision(item_of(fm, window)) for fm in foundation_models)
    ]


def join_window(state: LogState, window: int, foundation_models: Sequence[str]) -> bool:
    """Commit the examples of a window; return whether this run did it.

    Raises: DataError if an impression lacks a label or a pseudo-label.
    """
    das, key, time = state.das, state.das.rules.key, state.das.rules.time
    labels = state.labels.read([window])
    rows = state.impressions.read([window])
    joined = rows.join(labels.drop(key, time, WINDOW), on=[ARRIVAL, ROW], how="inner")
    pseudo = state.pseudo_labels.read([window])
    for fm in foundation_models:
        names = {SNAPSHOT: pseudo_snapshot_column(fm), AGE: pseudo_age_column(fm)}
        names |= {task: pseudo_label_column(fm, task) for task in das.schema.tasks()}
        of_fm = pseudo.filter(pl.col(FM) == fm).drop(FM, WINDOW).rename(names)
        joined = joined.join(of_fm, on=key, how="inner")
    if joined.height != labels.height:
        raise DataError(
            f"window {window}: labels and pseudo-labels join to {joined.height} of {labels.height} examples; the "
            "tables `labels` and `pseudo_labels` were changed by another program: restore them"
        )
    table = das.examples(state.impressions.columns, foundation_models)
    inputs = {name: getattr(state, name).version for name in ("impressions", "labels", "pseudo_labels")}
    ordered = joined.sort(das.schema.domain, time, key)
    return commit(
        table, [stage(table, ordered, window=window)], item=f"examples/{window}", replaces=window, inputs=inputs
    )
