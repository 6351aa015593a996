"""Criteo's Kaggle challenge of 2014: a week of display ads, with 13 counts and 26 hashed categories."""

import polars as pl

from exfm.events.csv_files import CsvLayout
from exfm.events.datasets.dataset import DataSet, Outcome

COUNTS = [f"I{number}" for number in range(1, 14)]
CATEGORIES = [f"C{number}" for number in range(1, 27)]

DATA = DataSet(
    title="Criteo's Kaggle challenge, train.txt",
    files=("train.txt",),
    layout=CsvLayout(
        columns={"label": pl.Boolean, **dict.fromkeys(COUNTS, pl.Float64), **dict.fromkeys(CATEGORIES, pl.String)},
        separator="\t",
        has_header=False,
        required=("label",),
    ),
    feedback={"click": Outcome(pl.col("label"))},
    left_out=("label",),
    derived={count: pl.col(count).clip(lower_bound=0) for count in COUNTS},
    notes=("Counts below 0 are read as 0: their logarithm is a feature.",),
)
