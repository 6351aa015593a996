"""Verification: random windows are computed again, and compared with the tables, row by row."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from exfm.das.closing import LogState, accounts, labels_of
from exfm.das.joining import examples_of, revision_of
from exfm.das.log_tables import FM, SNAPSHOT, Das
from exfm.das.scoring import FoundationModel, scores_of, teaching
from exfm.errors import DataError
from exfm.tables.grid import WINDOW


@dataclass(frozen=True)
class Verified:
    """Rows of a window that are as they should be."""

    window: int
    table: str
    num_rows: int


def verify(
    das: Das, *, foundation_models: Mapping[str, FoundationModel], num_windows: int, seed: int
) -> Iterator[Verified]:
    """Compute labels, pseudo-labels and examples of random windows again, and yield what agrees with the tables.

    Windows that were relabelled, and pseudo-labels of snapshots that are gone, are left out. The accounts of all
    windows are balanced, too.

    Raises: DataError, which says in which window how many rows differ.
    """
    state = LogState.of(das)
    for account in accounts(state):
        account.require_balance()
    unrevised = [window for window in sorted(state.labels.files) if state.labels.newest_revision(window) == 1]
    chosen = sorted(random.Random(seed).sample(unrevised, min(num_windows, len(unrevised))))
    for window in chosen:
        labels = labels_of(state, window, until=state.closed_with(window))
        yield _same(labels, state.labels.read([window]), window, "labels", das)
    for fm, model in foundation_models.items():
        with teaching(model, state) as teacher:
            for window in chosen:
                found = state.pseudo_labels.read([window]).filter(pl.col(FM) == fm)
                snapshot = teacher.snapshot_for(window, das) if teacher else None
                version = snapshot.version if snapshot else None
                if found[SNAPSHOT].unique().to_list() != [version]:
                    continue
                again = pl.concat(scores_of(state, window, fm, teacher, snapshot))
                yield _same(again, found, window, f"pseudo_labels of {fm}", das)
    names = list(foundation_models)
    for window in chosen:
        if 0 < state.examples.newest_revision(window) == revision_of(state, window, names):
            yield _same(examples_of(state, window, names), state.examples.read([window]), window, "examples", das)


def _same(computed: pl.DataFrame, found: pl.DataFrame, window: int, table: str, das: Das) -> Verified:
    key = das.rules.key
    ours, theirs = (rows.select(computed.columns).sort(key) for rows in (computed, found.drop(WINDOW)))
    if not ours.equals(theirs):
        different = ours.join(theirs, on=ours.columns, how="anti", nulls_equal=True).height
        raise DataError(
            f"table {table}, window from {das.time_text(das.grid.window(window).start)}: {different} of {ours.height} "
            f"rows differ when computed again, and the table has {theirs.height} rows; the tables were changed by "
            "another program, or an ingested file was: restore them, or begin with an empty root"
        )
    return Verified(window=window, table=table, num_rows=ours.height)
