"""Ages of pseudo-labels: how old the foundation model's knowledge was when it made them."""

from typing import Literal

import polars as pl
from pydantic import FiniteFloat

from exfm.config import Config
from exfm.tables.grid import WINDOW

SECONDS_PER_HOUR = 3600


class Age(Config):
    """Event time from a snapshot's `known_until` to the impressions that it scored, in the unit of `Timeliness`."""

    mean: FiniteFloat
    min: FiniteFloat
    max: FiniteFloat


class Timeliness(Config):
    """Ages of pseudo-labels."""

    unit: Literal["hours", "steps"]
    """`steps`: event time is ordinal."""
    overall: Age | None
    """None if no impression was scored."""
    by_window: dict[int, Age]
    """Age by index of the window; only windows with scored impressions."""


def measure(ages: pl.DataFrame, *, kind: Literal["absolute", "ordinal"]) -> Timeliness:
    """Return how old pseudo-labels are; `ages` has WINDOW and `age`, in event time, of each."""
    divisor = SECONDS_PER_HOUR if kind == "absolute" else 1
    age = pl.col("age") / divisor
    figures = (age.mean().alias("mean"), age.min().alias("min"), age.max().alias("max"))
    by_window = ages.group_by(WINDOW).agg(*figures).sort(WINDOW)
    return Timeliness(
        unit="hours" if kind == "absolute" else "steps",
        overall=Age(**ages.select(*figures).row(0, named=True)) if len(ages) else None,
        by_window={row.pop(WINDOW): Age(**row) for row in by_window.to_dicts()},
    )
