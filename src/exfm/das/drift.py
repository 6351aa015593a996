"""Drift: how far a column's values moved from one window to a later one."""

import numpy as np
import numpy.typing as npt
import polars as pl

NUM_BINS = 10
"""Bins of a number: deciles of the earlier window. A value that fills several of them has a bin of its own."""

NUM_IDS = 20
"""Ids, or texts, that are counted apart: the most frequent ones of the earlier window."""

MAX_ROWS = 65_536
"""Rows of a window that are looked at, evenly spread."""

Counts = npt.NDArray[np.int64]


def drift(before: pl.Series, now: pl.Series) -> float | None:
    """Return the population stability index of a column of numbers, ids, texts, or lists of them.

    None: one of the windows has no row, or the earlier one no value.
    """
    before, now = (_sample(values) for values in (before, now))
    if now.is_empty() or before.null_count() == len(before):
        return None
    counts = _number_counts(before, now) if before.dtype.is_float() else _id_counts(before, now)
    return stability_index(*counts)


def _sample(values: pl.Series) -> pl.Series:
    rows = values.gather_every(max(1, -(-len(values) // MAX_ROWS)))
    return rows.fill_nan(None) if rows.dtype.is_float() else rows


def stability_index(before: Counts, now: Counts) -> float:
    """Return the sum over bins of (q - p) ln(q / p), p and q being the shares of rows in a bin before and now.

    Half a row is added to each bin, so that an empty one has a share.

    Source: population stability index, arXiv:2303.01227.
    """
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (before, now))
    return float(((q - p) * np.log(q / p)).sum())


def _number_counts(before: pl.Series, now: pl.Series) -> tuple[Counts, Counts]:
    """Return rows by bin; the last bin is for rows without a value."""
    known_before, known_now = (values.drop_nulls().to_numpy() for values in (before, now))
    deciles = np.quantile(known_before, np.arange(1, NUM_BINS) / NUM_BINS, method="lower")
    edges, repetitions = np.unique(deciles, return_counts=True)
    edges = np.unique(np.concatenate([edges, np.nextafter(edges[repetitions > 1], -np.inf)]))
    counts = (
        np.append(np.bincount(np.searchsorted(edges, known), minlength=len(edges) + 1), len(values) - len(known))
        for known, values in ((known_before, before), (known_now, now))
    )
    return next(counts), next(counts)


def _id_counts(before: pl.Series, now: pl.Series) -> tuple[Counts, Counts]:
    """Return ids by the most frequent ones; the last two counts are of other ids, and of rows without one."""
    before, now = (values.explode() if values.dtype == pl.List else values for values in (before, now))
    counts_before, counts_now = (values.drop_nulls().alias("id").value_counts() for values in (before, now))
    frequent = counts_before.sort("count", "id", descending=[True, False]).head(NUM_IDS).select("id")
    found = []
    for values, counts in ((before, counts_before), (now, counts_now)):
        known = frequent.join(counts, on="id", how="left", maintain_order="left")["count"].fill_null(0).to_numpy()
        num_others = len(values) - values.null_count() - int(known.sum())
        found.append(np.append(known.astype(np.int64), [num_others, values.null_count()]))
    return found[0], found[1]
