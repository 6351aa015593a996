"""A new vertical: MovieLens users of one occupation, of whom nothing is known before the middle of the log."""

from pathlib import Path

import polars as pl

from exfm.events.movielens import MovieLensSource, load_movielens

NEWCOMERS = "newcomers"
"""The new domain."""

IMPRESSIONS, FEEDBACK = "impressions.parquet", "feedback.parquet"
"""Files of the log."""

OCCUPATION = "other"
"""Whose users they are: in MovieLens-100K a tenth of all ratings."""


def write_newcomers(source: MovieLensSource, *, folder: Path) -> None:
    """Write a MovieLens log in which these users are a domain that begins in the middle of all impressions.

    Raises: as `load_movielens`.
    """
    log = load_movielens(source)
    is_newcomer = pl.col("occupation") == OCCUPATION
    middle = log.impressions["event_time_s"].median()
    shown = log.impressions.filter(~is_newcomer | (pl.col("event_time_s") >= middle)).with_columns(
        pl.when(is_newcomer).then(pl.lit(NEWCOMERS)).otherwise(pl.col("domain")).alias("domain")
    )
    folder.mkdir(parents=True, exist_ok=True)
    shown.write_parquet(folder / IMPRESSIONS)
    log.feedback.join(shown.select("impression_id"), on="impression_id", how="semi").write_parquet(folder / FEEDBACK)
