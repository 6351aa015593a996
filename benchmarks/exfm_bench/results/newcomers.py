"""A new vertical: MovieLens users of one occupation who come in the second half of the log."""

from pathlib import Path

import polars as pl

from exfm.artifact.output import writing
from exfm.events.movielens import MovieLensSource, load_movielens

NEWCOMERS = "newcomers"
"""The new domain."""

IMPRESSIONS, FEEDBACK = "impressions.parquet", "feedback.parquet"
"""Files of the log."""

OCCUPATION = "other"
"""Whose users they are: in MovieLens-100K a tenth of all ratings."""


def write_newcomers(source: MovieLensSource, *, folder: Path) -> None:
    """Write a MovieLens log in which users who are first seen after its middle, by impressions, are a domain.

    A log that is there stays.

    Raises: as `load_movielens`.
    """
    if folder.exists():
        return
    log = load_movielens(source)
    middle = log.impressions["event_time_s"].median()
    is_newcomer = (pl.col("occupation") == OCCUPATION) & (pl.col("event_time_s").min().over("user_id") > middle)
    domain = pl.when(is_newcomer).then(pl.lit(NEWCOMERS)).otherwise(pl.col("domain")).alias("domain")
    with writing(str(folder), files=(IMPRESSIONS, FEEDBACK)) as made:
        log.impressions.with_columns(domain).write_parquet(made / IMPRESSIONS)
        log.feedback.write_parquet(made / FEEDBACK)
